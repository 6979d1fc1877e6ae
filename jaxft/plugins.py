"""What a plug-in registers, so that recipes can name it.

    import dataclasses
    from typing import Literal
    from jaxft import plugins

    @dataclasses.dataclass(frozen=True)
    class BackwardsConfig(plugins.TextConfig):
        kind: Literal["backwards_lm"] = "backwards_lm"
        text: str = "text"
        length: int | None = None

    @plugins.objective(BackwardsConfig)
    class Backwards(plugins.Objective):
        ...

A recipe loads it with `plugins: [backwards.py]`; a package that is installed does so for all recipes, with an entry
point of the group `jaxft.plugins` whose value is the module. Names that jaxft or another plug-in has are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeVar

import optax

from jaxft.data.sources import SourceConfig
from jaxft.data.sources.added import SOURCES, AddedSource
from jaxft.errors import InvalidField, RecipeError
from jaxft.evaluation.evaluated import Evaluated
from jaxft.evaluation.measures import MEASURES
from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import MODEL_TYPES
from jaxft.objectives.config import LabelConfig, ObjectiveConfig, TextConfig, TextPairConfig
from jaxft.objectives.objective import FoundInData, Objective, ObjectiveContext
from jaxft.objectives.registry import METRICS, OBJECTIVES, AddedMetric, Kind
from jaxft.recipe.decoding import check_annotations
from jaxft.training.optimizer import OPTIMIZERS, OptimizerConfig

__all__ = [
    "AddedSource", "Architecture", "Evaluated", "FoundInData", "LabelConfig", "Objective", "ObjectiveConfig",
    "ObjectiveContext", "OptimizerConfig", "TextConfig", "TextPairConfig", "architecture", "metric", "objective",
    "optimizer", "source",
]  # fmt: skip

Maker = TypeVar("Maker", bound=Callable[..., Objective])
Source = TypeVar("Source", bound=AddedSource)
Measure = TypeVar("Measure", bound=Callable[[Evaluated], float])
Scaling = TypeVar("Scaling", bound=Callable[[OptimizerConfig], optax.GradientTransformation])


def objective(config: type[ObjectiveConfig]) -> Callable[[Maker], Maker]:
    """Registers the class of an objective, or a function that makes one, for recipes with `kind: NAME`.

    Args:
      config: what a recipe says of it: a frozen dataclass whose field `kind` has the name as its default.

    Raises:
      RecipeError: the config is no such class, or its name is taken.
    """
    _check_config(config, ObjectiveConfig)
    kind = getattr(config, "kind", None)
    if not isinstance(kind, str):
        raise RecipeError(f'{config.__name__} has no name; give it one as in `kind: Literal["mine"] = "mine"`')

    def register(make: Maker) -> Maker:
        OBJECTIVES.add(kind, Kind(config, make), config.__module__)
        return make

    return register


def source(name: str) -> Callable[[type[Source]], type[Source]]:
    """Registers a source of rows, for recipes with `source: {NAME: {...}}`.

    Args:
      name: the key; the keys under it are the fields of the class, a frozen dataclass under `AddedSource`.

    Raises:
      RecipeError: the class is none such, or the name is taken.
    """

    def register(config: type[Source]) -> type[Source]:
        _check_config(config, AddedSource)
        if name in {field.name for field in dataclasses.fields(SourceConfig)}:
            raise RecipeError(f"source {name!r}: this name is jaxft's own; choose another one")
        SOURCES.add(name, config, config.__module__)
        return config

    return register


def metric(name: str, objectives: Iterable[str], lower_is_better: bool = False) -> Callable[[Measure], Measure]:
    """Registers a metric, for recipes with `metrics: [NAME]`.

    The function is given all that the model said of the held-out data, and returns a number.

    Args:
      name: of the metric.
      objectives: kinds of those whose evaluation can report it.
      lower_is_better: whether it is better when lower.

    Raises:
      RecipeError: the name is taken.
    """

    def register(measure: Measure) -> Measure:
        # A plain number, whatever the function's array library has.
        MEASURES.add(name, lambda evaluated: float(measure(evaluated)), measure.__module__)
        METRICS.add(name, AddedMetric(frozenset(objectives), lower_is_better), measure.__module__)
        return measure

    return register


def optimizer(name: str) -> Callable[[Scaling], Scaling]:
    """Registers an optimizer, for recipes with `optimizer: {name: NAME}`.

    The function makes of the recipe's `optimizer` what becomes of gradients before weight decay and the learning rate,
    as `optax.scale_by_adam` does.

    Args:
      name: of the optimizer.

    Raises:
      RecipeError: the name is taken.
    """

    def register(scaling: Scaling) -> Scaling:
        OPTIMIZERS.add(name, lambda config, parameters, axes: scaling(config), scaling.__module__)
        return scaling

    return register


def architecture(made: Architecture) -> Architecture:
    """Registers an architecture of Hugging Face under all its model types, for reading and for writing weights.

    Args:
      made: see `jaxft.huggingface.architecture`.

    Raises:
      RecipeError: one of its model types is taken.
    """
    for model_type in made.model_types:
        MODEL_TYPES.add(model_type, made, made.trunk.__module__)
    return made


def _check_config(config: type, base: type) -> None:
    if not (issubclass(config, base) and dataclasses.is_dataclass(config)):
        raise RecipeError(f"{config.__name__} must be a dataclass whose base is {base.__name__}")
    try:
        check_annotations(config)
    except InvalidField as error:
        raise RecipeError(f"{config.__name__}: {error}") from error
