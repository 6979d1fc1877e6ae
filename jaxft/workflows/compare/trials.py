"""The runs of a comparison: one for each arm, budget, learning rate and seed, made of one recipe."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator

from jaxft.errors import RecipeError
from jaxft.recipe.comparison import ArmConfig, Budget, CompareConfig
from jaxft.recipe.decoding import decode, fail
from jaxft.recipe.reading import Document, override
from jaxft.recipe.schema import Recipe, StreamSection
from jaxft.reporting.atomic import write_atomically


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
      arm: its name; of an interpolation with its share.
      config: of the arm that trains.
      budget: what the arms have the same of.
      learning_rate: peak.
      seed: of everything random.
      share: of the tuned model, where it is interpolated with the start; else None.
      of: the arm that it is then made of; else None.
    """

    arm: str
    config: ArmConfig
    budget: Budget
    learning_rate: float
    seed: int
    share: float | None = None
    of: str | None = None

    def directory(self, base: pathlib.Path) -> pathlib.Path:
        """Where the run lies, or the result of an interpolation."""
        return base / "arms" / self.arm / self.budget / f"rate-{self.learning_rate:g}" / f"seed-{self.seed}"

    def result(self, base: pathlib.Path) -> dict | None:
        """What was measured, or None."""
        path = self.directory(base) / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def write_result(self, base: pathlib.Path, result: dict) -> None:
        """Writes down what was measured."""
        directory = self.directory(base)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / "result.json", (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())

    @property
    def trained(self) -> Trial:
        """The run whose model is interpolated; the trial itself where it trains."""
        return self if self.of is None else dataclasses.replace(self, arm=self.of, share=None, of=None)


def comparison_of(recipe: Recipe) -> CompareConfig:
    """What a recipe that `check_comparison` let pass says of its comparison."""
    assert recipe.compare is not None
    return recipe.compare


def trials(recipe: Recipe) -> Iterator[Trial]:
    """All runs, those that train before those made of them."""
    compare = comparison_of(recipe)
    rates = compare.learning_rates or (recipe.optimizer.learning_rate,)
    named: list[tuple[str, ArmConfig, float | None, str | None]] = [
        (name, arm, None, None) for name, arm in compare.arms.items() if arm.of is None
    ]
    named += [
        (f"{name} {share:g}", compare.arms[arm.of], share, arm.of)
        for name, arm in compare.arms.items()
        if arm.of is not None
        for share in arm.interpolate
    ]
    for name, arm, share, of in named:
        # Without replay both budgets are one.
        for budget in compare.budgets[:1] if arm.replay == 0 else compare.budgets:
            for rate, seed in itertools.product(rates, compare.seeds):
                yield Trial(name, arm, budget, rate, seed, share, of)


def recipe_of(trial: Trial, document: Document) -> tuple[Recipe, Document]:
    """The recipe of a run that trains.

    Raises:
      RecipeError: an override of the arm does not fit.
    """
    words = (*trial.config.set, f"optimizer.learning_rate={trial.learning_rate}", f"training.seed={trial.seed}")
    document = override(document, words)
    recipe = decode(document, Recipe)
    replay = trial.config.replay
    if replay is not None:
        first, *others = recipe.streams
        if not others:
            fail(
                document, ("compare", "arms", trial.arm, "replay"), "the recipe has no stream after the first to replay"
            )
        streams = {name: _with_share(recipe.streams[name], replay / len(others), recipe) for name in others}
        recipe = dataclasses.replace(recipe, streams={first: recipe.streams[first], **streams})
    training = recipe.training
    if trial.budget == "compute" and replay:
        steps = training.steps and max(1, round(training.steps * (1 - replay)))
        training = dataclasses.replace(training, steps=steps, epochs=training.epochs and training.epochs * (1 - replay))
    name = f"{recipe.name} {trial.arm} {trial.budget} {trial.learning_rate:g} {trial.seed}"
    return dataclasses.replace(recipe, name=name, training=training, compare=None), document


def _with_share(stream: StreamSection, share: float, recipe: Recipe) -> StreamSection:
    if share:
        return dataclasses.replace(stream, share=share, batch_size=None, every=1)
    size = stream.batch_size or next(iter(recipe.streams.values())).batch_size
    return dataclasses.replace(stream, weight=0.0, share=None, batch_size=size)


def check_comparison(recipe: Recipe, document: Document) -> CompareConfig:
    """What the recipe says of its comparison.

    Raises:
      RecipeError: it says nothing, or names an evaluation that it does not have.
    """
    compare = recipe.compare
    if compare is None:
        raise RecipeError(
            f"{document.name} has no section `compare`; add one, as in "
            "compare: {task: test.accuracy, retained: retained.loss}"
        )
    if recipe.model.pretrained is None:
        fail(document, ("model",), "a comparison begins with what was learned before: name it by pretrained")
    for field in ("task", "retained", "select", "probe"):
        metric = getattr(compare, field)
        name, dot, _ = (metric or "").partition(".")
        if metric is not None and (not dot or name not in recipe.evaluation):
            known = ", ".join(recipe.evaluation) or "none"
            problem = f"{metric!r} is not EVALUATION.METRIC with one of the evaluations: {known}"
            fail(document, ("compare", field), problem)
    return compare
