"""Learning-rate schedules."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from jaxft.errors import InvalidField


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves from 0 to its peak and down again.

    Attributes:
      name: `constant`, `linear`, `cosine`, `inverse_square_root` (Vaswani et al. 2017) or `warmup_stable_decay`
        (Hu et al. 2024, arXiv 2404.06395: constant, then a linear end).
      warmup: steps of linear warm-up, or a share of all steps where below 1.
      decay: steps of the final decay of `warmup_stable_decay`, or a share of all steps where below 1.
      end: the last learning rate as a share of the peak (`linear`, `cosine`, `warmup_stable_decay`).
    """

    name: Literal["constant", "linear", "cosine", "inverse_square_root", "warmup_stable_decay"] = "linear"
    warmup: float = 0.1
    decay: float = 0.1
    end: float = 0.0

    def __post_init__(self) -> None:
        for field in ("warmup", "decay"):
            value = getattr(self, field)
            if value < 0 or (value >= 1 and value != int(value)):
                raise InvalidField(field, f"must be a share below 1 or a whole number of steps, found {value}")
        if not 0 <= self.end <= 1:
            raise InvalidField("end", f"must be a share of the peak in [0, 1], found {self.end}")


def make_schedule(config: ScheduleConfig, peak: float, total_steps: int) -> optax.Schedule:
    """Learning rate by step.

    Args:
      config: the shape.
      peak: highest learning rate.
      total_steps: steps of the run.
    """
    warmup = _steps(config.warmup, total_steps)
    rest = max(1, total_steps - warmup)
    if config.name == "constant":
        after = optax.constant_schedule(peak)
    elif config.name == "linear":
        after = optax.linear_schedule(peak, peak * config.end, rest)
    elif config.name == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, config.end)
    elif config.name == "inverse_square_root":
        reference = max(warmup, 1)
        after = lambda step: peak * jnp.sqrt(reference / (jnp.maximum(step, 0) + reference))  # noqa: E731
    else:
        decay = min(_steps(config.decay, total_steps), rest)
        falling = optax.linear_schedule(peak, peak * config.end, max(1, decay))
        after = optax.join_schedules([optax.constant_schedule(peak), falling], [rest - decay])
    if warmup == 0:
        return after
    # Begins above 0, so that no step is wasted.
    rising = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rising, after], [warmup])


def _steps(amount: float, total_steps: int) -> int:
    return round(amount * total_steps) if amount < 1 else int(amount)
