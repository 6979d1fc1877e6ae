"""Holding parameters to where they began.

Each is a gradient transformation that comes after the learning rate, decoupled from the optimizer's moments as the
weight decay of AdamW is. A quadratic penalty `strength / 2 * importance * (p - p0) ** 2` acts by its proximal step,
`p <- (p + s * p0) / (1 + s)` with `s = learning_rate * strength * importance`: unlike a gradient step it cannot
overshoot, so an infinite strength holds a parameter where it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.errors import InvalidField
from jaxft.parallel.trees import Flags, Numbers, Parameters, Tree


@dataclasses.dataclass(frozen=True)
class EwcConfig:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796).

    Attributes:
      strength: of the penalty.
      stream: whose examples tell how important each parameter is for pretraining; its weight may be 0.
      examples: how many are used.
    """

    strength: float
    stream: str
    examples: int = 512

    def __post_init__(self) -> None:
        _check_positive(self, "strength", "examples")


@dataclasses.dataclass(frozen=True)
class RecAdamConfig:
    """Recall and learn (Chen et al. 2020, arXiv 2004.12651): the task's share of a step rises as a sigmoid.

    Attributes:
      strength: gamma, of the pull to the start.
      steepness: k, of the sigmoid.
      middle: t0, step in which the shares are equal, or a share of all steps where below 1.
    """

    strength: float = 5000.0
    steepness: float = 0.1
    middle: float = 0.25

    def __post_init__(self) -> None:
        _check_positive(self, "strength", "steepness")
        if self.middle < 0:
            raise InvalidField("middle", f"must not be negative, found {self.middle}")


def _check_positive(config: Any, *fields: str) -> None:
    for field in fields:
        if getattr(config, field) <= 0:
            raise InvalidField(field, f"must be positive, found {getattr(config, field)}")


class _Count(NamedTuple):
    count: jax.Array  # type: ignore[assignment]  # tuples have a method of this name, which nobody calls here


class EwcState(NamedTuple):
    """Attributes: count of updates; importance, a tree of float32 arrays like the parameters."""

    count: jax.Array  # type: ignore[assignment]  # likewise
    importance: Numbers


def _proximal(updates: Parameters, parameters: Parameters, origin: Parameters, strengths: Numbers) -> Parameters:
    """Updates whose end is pulled to the origin; `strengths` is a tree of numbers or arrays."""

    def pulled(update: jax.Array, parameter: jax.Array, start: jax.Array, strength: jax.Array) -> jax.Array:
        share = jnp.where(jnp.isinf(strength), 1.0, strength / (1.0 + strength))
        return (1.0 - share) * update + share * (start - parameter)

    return jax.tree.map(pulled, updates, parameters, origin, strengths)


def l2_sp(strength: float, schedule: optax.Schedule, anchored: Flags) -> optax.GradientTransformationExtraArgs:
    """Pulls parameters to their start (L2-SP, Li et al. 2018, arXiv 1802.01483).

    Args:
      strength: alpha of the penalty `alpha / 2 * |p - p0| ** 2`.
      schedule: learning rate by step.
      anchored: tree of booleans: what has a start worth keeping (not fresh heads).
    """

    def update(
        updates: Parameters, state: _Count, parameters: Parameters, *, origin: Parameters, **_: Any
    ) -> tuple[Parameters, _Count]:
        strengths = jax.tree.map(
            lambda own: _strength(schedule(state.count), strength, own), _floats(anchored, updates)
        )
        return _proximal(updates, parameters, origin, strengths), _Count(state.count + 1)

    return optax.GradientTransformationExtraArgs(lambda parameters: _Count(jnp.zeros((), jnp.int32)), update)


def ewc(strength: float, schedule: optax.Schedule, anchored: Flags) -> optax.GradientTransformationExtraArgs:
    """Pulls each parameter to its start as strongly as its importance says; see `set_importance`.

    Args:
      strength: of the penalty `strength / 2 * importance * (p - p0) ** 2`.
      schedule: learning rate by step.
      anchored: tree of booleans: what has a start worth keeping (not fresh heads).
    """

    def init(parameters: Parameters) -> EwcState:
        return EwcState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, parameters))

    def update(
        updates: Parameters, state: EwcState, parameters: Parameters, *, origin: Parameters, **_: Any
    ) -> tuple[Parameters, EwcState]:
        strengths = jax.tree.map(
            lambda own, importance: _strength(schedule(state.count), strength, own * importance),
            _floats(anchored, updates),
            state.importance,
        )
        return _proximal(updates, parameters, origin, strengths), EwcState(state.count + 1, state.importance)

    return optax.GradientTransformationExtraArgs(init, update)


def set_importance(optimizer_state: Tree, importance: Numbers) -> Tree:
    """The state of an optimizer with `ewc` in it, which then knows how important each parameter is."""
    return jax.tree.map(
        lambda own: EwcState(own.count, importance) if isinstance(own, EwcState) else own,
        optimizer_state,
        is_leaf=lambda own: isinstance(own, EwcState),
    )


def recadam(
    config: RecAdamConfig, schedule: optax.Schedule, anchored: Flags, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """`p <- p + l(t) * update - rate * (1 - l(t)) * strength * (p - p0)` with `l(t) = sigmoid(k * (t - t0))`.

    Args:
      config: see there.
      schedule: learning rate by step.
      anchored: tree of booleans: what has a start worth keeping; the others learn the task from the first step.
      total_steps: of the run.
    """
    middle = config.middle * total_steps if config.middle < 1 else config.middle

    def update(
        updates: Parameters, state: _Count, parameters: Parameters, *, origin: Parameters, **_: Any
    ) -> tuple[Parameters, _Count]:
        task = jax.nn.sigmoid(config.steepness * (state.count - middle))
        # More than all of the way back would be past the start.
        pull = jnp.minimum(schedule(state.count) * (1 - task) * config.strength, 1.0)

        def recalled(update: jax.Array, parameter: jax.Array, start: jax.Array, own: float) -> jax.Array:
            return jnp.where(own > 0, task * update + pull * (start - parameter), update)

        return jax.tree.map(recalled, updates, parameters, origin, _floats(anchored, updates)), _Count(state.count + 1)

    return optax.GradientTransformationExtraArgs(lambda parameters: _Count(jnp.zeros((), jnp.int32)), update)


def _strength(rate: jax.Array, strength: float, importance: jax.Array | float) -> jax.Array:
    """Their product, which is 0 where the importance or the rate is, whatever the strength."""
    return jnp.where((rate > 0) & (importance > 0), rate * strength * importance, 0.0)


def _floats(flags: Flags, updates: Parameters) -> Numbers:
    """Booleans as numbers, without the leaves that are None in `updates`."""
    return jax.tree.map(lambda flag, leaf: None if leaf is None else float(flag), flags, updates)
