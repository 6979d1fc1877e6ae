"""Optimizers from Optax, with weight decay by pattern."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
import optax.contrib
from jax.sharding import PartitionSpec

from jaxft.errors import InvalidField
from jaxft.extension.table import OpenTable
from jaxft.finetuning.naming import check_pattern, parameter_names
from jaxft.finetuning.policy import Policy, add_decay, scale_by_policy
from jaxft.parallel.trees import Axes, Flags, Parameters, Shapes
from jaxft.training.matrices import is_table, matrix_shape, on_matrices

# Biases, the scales of norms, and nothing else, as in BERT.
NO_DECAY = ("bias$", "scale$")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer in a recipe.

    Attributes:
      name: `adamw`, `adafactor` (factored second moments, steps relative to the parameters' size), `lion`, `muon`
        (orthogonalized momentum for matrices, AdamW for the rest), `sgd`, or one of a plug-in's.
      learning_rate: peak of the schedule.
      weight_decay: decoupled, multiplied by the learning rate.
      no_decay: regular expressions; parameters whose name one of them finds are not decayed.
      b1: decay of the first moment (`adamw`, `lion`, `muon`) or momentum (`sgd`).
      b2: decay of the second moment (`adamw`, `lion`).
      epsilon: added to the root of the second moment.
    """

    name: str = dataclasses.field(default="adamw", metadata={"choices": lambda: OPTIMIZERS})
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = NO_DECAY
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise InvalidField("learning_rate", f"must be positive, found {self.learning_rate}")
        if self.weight_decay < 0:
            raise InvalidField("weight_decay", f"must not be negative, found {self.weight_decay}")
        for field in ("b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise InvalidField(field, f"must be in [0, 1), found {getattr(self, field)}")
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidField("no_decay", f"{pattern!r} is not a regular expression: {error}") from error


def decay_mask(parameters: Parameters | Shapes, no_decay: tuple[str, ...], trained_heads: frozenset[str]) -> Flags:
    """True where a parameter is decayed.

    Args:
      parameters: tree of arrays or ShapeDtypeStruct, with `trunk` and `head_<name>` on top.
      no_decay: regular expressions of names that are not decayed.
      trained_heads: heads that some stream trains; the others get no gradient and must stay exactly as they are.

    Raises:
      RecipeError: a pattern of the user's own that matches no parameter; the nearest are named.
    """
    names = parameter_names(parameters)
    for pattern in no_decay:
        if pattern not in NO_DECAY:
            check_pattern(pattern, names, "optimizer.no_decay")
    trained = {"trunk", *(f"head_{head}" for head in trained_heads)}
    decayed = [
        name.split("/")[0] in trained and not any(re.search(pattern, name) for pattern in no_decay) for name in names
    ]
    return jax.tree.unflatten(jax.tree.structure(parameters), decayed)


def make_optimizer(
    config: OptimizerConfig,
    schedule: optax.Schedule,
    parameters: Parameters | Shapes,
    axes: Axes,
    trained_heads: frozenset[str],
    *,
    policy: Policy | None = None,
    undecayed: Flags | None = None,
    anchors: Sequence[optax.GradientTransformation] = (),
) -> optax.GradientTransformation:
    """The gradient transformation of a run; clipping is the train step's.

    Args:
      config: the optimizer.
      schedule: learning rate by step.
      parameters: tree of arrays or ShapeDtypeStruct.
      axes: tree of PartitionSpec over logical axes of the same structure; it tells which axes of a kernel are its
        inputs.
      trained_heads: names of the heads that some stream trains.
      policy: which parameters are trained, and how fast; all alike where None. The transformation then takes the
        trained ones alone.
      undecayed: tree of booleans: what has no weight decay whatever its name, or None.
      anchors: what follows the learning rate (`jaxft.finetuning.anchors`).
    """
    mask = decay_mask(parameters, config.no_decay, trained_heads)
    if undecayed is not None:
        mask = jax.tree.map(lambda decayed, free: decayed and not free, mask, undecayed)
    if policy is not None:
        axes = jax.tree.map(lambda own, spec: spec if own else None, policy.trained, axes)
        parameters = jax.tree.map(lambda own, leaf: leaf if own else None, policy.trained, parameters)
        mask = jax.tree.map(lambda own, leaf: leaf if own else None, policy.trained, mask)
    scaling = OPTIMIZERS[config.name](config, parameters, axes)
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    if policy is not None and policy.has_decays:
        decay = add_decay(policy, jax.tree.map(lambda decayed: config.weight_decay * decayed, mask))
    last = () if policy is None or policy.is_plain else (scale_by_policy(policy),)
    return optax.chain(scaling, decay, optax.scale_by_learning_rate(schedule), *anchors, *last)


# --- What becomes of the gradients before weight decay and the learning rate ---


def _muon(config: OptimizerConfig, parameters: Parameters | Shapes, axes: Axes) -> optax.GradientTransformation:
    # The rate of -1 leaves the direction as it is. Decay and schedule follow, as for all: Muon's own decay has a
    # mask for the matrices alone.
    muon = optax.contrib.muon(
        -1.0,
        beta=config.b1,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=jax.tree.map(_muon_axes, parameters, axes),
        # Updates as large as AdamW's, so that one learning rate serves both halves (Liu et al. 2025, arXiv
        # 2502.16982).
        consistent_rms=0.2,
    )
    return on_matrices(muon, axes)


def _muon_axes(
    parameter: jax.Array | jax.ShapeDtypeStruct, spec: PartitionSpec
) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of the matrix view are a matrix; None for what Muon leaves to AdamW: vectors and tables."""
    stacked = spec[:1] == ("layers",)
    if is_table(spec) or len(matrix_shape(parameter.shape, spec)) - stacked != 2:
        return None
    return optax.contrib.MuonDimensionNumbers(int(stacked), 1 + int(stacked))


def _adafactor(config: OptimizerConfig, parameters: Any, axes: Any) -> optax.GradientTransformation:
    parts = optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
    return on_matrices(optax.chain(*parts), axes)


# From the config, the parameters and their axes (see `make_optimizer`).
Scaling = Callable[[OptimizerConfig, Any, Any], optax.GradientTransformation]

OPTIMIZERS: OpenTable[Scaling] = OpenTable(
    "optimizer",
    {
        "adamw": lambda config, parameters, axes: optax.scale_by_adam(config.b1, config.b2, config.epsilon),
        "adafactor": _adafactor,
        "lion": lambda config, parameters, axes: optax.scale_by_lion(config.b1, config.b2),
        "muon": _muon,
        "sgd": lambda config, parameters, axes: optax.trace(config.b1),
    },
)
