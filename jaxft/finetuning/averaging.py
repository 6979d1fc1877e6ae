"""Averages of parameters: over the steps of a run, with the start (WiSE-FT), and over runs (soups)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxft.errors import InvalidField
from jaxft.parallel.trees import Parameters

# From a train state, whose `average` is kept, and batches to the next state and metrics.
TrainStep = Callable[[Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class AveragingConfig:
    """An average over the steps of a run, which is evaluated and kept in place of the last parameters.

    Attributes:
      kind: `exponential` (EMA, Polyak) or `uniform` (stochastic weight averaging, Izmailov et al. 2018, arXiv
        1803.05407).
      decay: of the exponential one; it begins lower, at `(1 + t) / (10 + t)` after `t` steps, to forget the start.
      start: step, or a share of all steps where below 1, from which the average is taken; until then it is the
        parameters themselves.
      every: steps between two points of the uniform one.
    """

    kind: Literal["exponential", "uniform"] = "exponential"
    decay: float = 0.999
    start: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise InvalidField("decay", f"must lie between 0 and 1, found {self.decay}")
        if self.start < 0:
            raise InvalidField("start", f"must not be negative, found {self.start}")
        if self.every < 1:
            raise InvalidField("every", f"must be at least 1, found {self.every}")


def with_average(train_step: TrainStep, config: AveragingConfig, total_steps: int) -> TrainStep:
    """A train step that also keeps the average of its state's parameters."""
    start = round(config.start * total_steps) if config.start < 1 else int(config.start)

    def averaged(state: Any, batches: Any) -> tuple[Any, Any]:
        state, metrics = train_step(state, batches)
        # Steps averaged so far, this one among them.
        count = jnp.maximum(state.step - start, 0)
        if config.kind == "exponential":
            decay = jnp.minimum(config.decay, (1.0 + count) / (10.0 + count))
            share = jnp.where(count > 0, 1.0 - decay, 1.0)
        else:
            point = (count - 1) // config.every + 1
            taken = (count - 1) % config.every == 0
            share = jnp.where(count > 0, jnp.where(taken, 1.0 / jnp.maximum(point, 1), 0.0), 1.0)
        # No step moves the average where it was skipped: the parameters are as they were, which counts as a point.
        average = jax.tree.map(lambda old, new: _between(old, new, share), state.average, state.parameters)
        return state.replace(average=average), metrics

    return averaged


def _between(old: jax.Array, new: jax.Array, share: jax.Array | float) -> jax.Array:
    """`(1 - share) * old + share * new`; what does not move stays the same bit by bit, integers are the new ones."""
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new
    return jnp.where(old == new, new, (1 - share) * old + share * new)


def interpolate(start: Parameters, tuned: Parameters, share: float) -> Parameters:
    """`(1 - share) * start + share * tuned` (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903); exact at 0 and 1, and
    where the two are equal."""
    return jax.tree.map(lambda a, b: _between(a, b, share), start, tuned)


def soup(trees: Sequence[Parameters], weights: Sequence[float] | None = None) -> Parameters:
    """The weighted mean of the parameters of several runs from one start (Wortsman et al. 2022, arXiv 2203.05482).

    Args:
      trees: of the same structure.
      weights: one for each, made to sum up to 1; equal where None.
    """
    weights = [1.0] * len(trees) if weights is None else list(weights)
    total = sum(weights)
    return jax.tree.map(lambda *leaves: sum(w / total * x for w, x in zip(weights, leaves, strict=True)), *trees)
