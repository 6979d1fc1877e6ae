"""What a recipe says under `compare`: which runs are made of it, and what decides between them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxft.errors import InvalidField

Budget = Literal["task", "compute"]


@dataclasses.dataclass(frozen=True)
class ArmConfig:
    """One way of fine-tuning.

    Attributes:
      replay: share of the streams after the first in all tokens; 0 leaves them out, None leaves them as the recipe has
        them.
      set: overrides of the recipe, like `finetuning.l2_sp=0.01`.
      of: another arm, whose models are interpolated with the start in place of training (WiSE-FT).
      interpolate: shares of the tuned model, each an arm of its own.
    """

    replay: float | None = None
    set: tuple[str, ...] = ()
    of: str | None = None
    interpolate: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.replay is not None and not 0 <= self.replay < 1:
            raise InvalidField("replay", f"must be a share in [0, 1), found {self.replay}")
        if (self.of is None) != (not self.interpolate):
            raise InvalidField("interpolate", "an arm that interpolates names another one (of) and its shares")
        if self.of is not None and (self.replay is not None or self.set):
            raise InvalidField("of", "an arm made of another one trains nothing of its own")
        if any(not 0 <= share <= 1 for share in self.interpolate):
            raise InvalidField("interpolate", f"shares lie in [0, 1], found {list(self.interpolate)}")


def _usual_arms() -> dict[str, ArmConfig]:
    shares = {f"replay-{percent}": ArmConfig(replay=percent / 100) for percent in (1, 5, 25)}
    return {"one-way": ArmConfig(replay=0.0), **shares, "wise-ft": ArmConfig(of="one-way", interpolate=(0.5, 0.75))}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """A comparison.

    Attributes:
      task: metric that says how well the task was learned, like `test.accuracy`.
      retained: metric that says what was kept of pretraining, like `retained.loss`.
      select: metric by which each arm's learning rate is chosen, on other data than `task`; `task` where None.
      probe: metric that is far from both the task and the pretraining data, or None.
      arms: ways of fine-tuning by name; the first is what the others are compared with.
      learning_rates: tried for every arm; the recipe's own where empty.
      seeds: of every arm and learning rate.
      budgets: `task`: all arms see the same task tokens, replay comes on top; `compute`: all see as many tokens, replay
        takes the place of task tokens.
      forgetting: largest rise of `retained` (fall, where higher is better) that is still fine.
      confidence: of all intervals.
    """

    task: str
    retained: str
    select: str | None = None
    probe: str | None = None
    arms: dict[str, ArmConfig] = dataclasses.field(default_factory=_usual_arms)
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[Budget, ...] = ("task",)
    forgetting: float = 0.05
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for field in ("seeds", "budgets", "learning_rates"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise InvalidField(field, f"names one twice: {list(values)}")
        if not self.seeds or not self.budgets or not self.arms:
            raise InvalidField("seeds", "there must be at least one arm, one seed and one budget")
        if any(rate <= 0 for rate in self.learning_rates):
            raise InvalidField("learning_rates", f"must be positive, found {list(self.learning_rates)}")
        if not 0.5 <= self.confidence < 1:
            raise InvalidField("confidence", f"must be in [0.5, 1), found {self.confidence}")
        if next(iter(self.arms.values())).of is not None:
            raise InvalidField("arms", "the first arm is the one that the others are compared with: it must train")
        for name, arm in self.arms.items():
            if arm.of is not None and (arm.of not in self.arms or self.arms[arm.of].of is not None):
                trained = ", ".join(other for other, own in self.arms.items() if own.of is None)
                raise InvalidField(f"arms.{name}.of", f"{arm.of!r} is not one of the arms that train: {trained}")
