"""How much a stream counts in each step of a run, and in which steps it takes part at all."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxft.errors import InvalidField


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run in which a stream's weight stays the same.

    Attributes:
      until: end of the stage, as a share of the run.
      factor: of the stream's weight.
    """

    until: float
    factor: float


@dataclasses.dataclass(frozen=True)
class WeightScheduleConfig:
    """How a stream's weight changes; a stream whose weight is 0 in a step is not computed in it.

    Attributes:
      shape: from the beginning to the end of its time: `constant`, `linear` or `cosine` from 1 to `end`.
      end: last factor of the weight.
      start: where its time begins, as a share of the run.
      stop: where its time ends, as a share of the run: below 1, a replay stops before the end.
      stages: in place of all these, stages one after the other; after the last one its factor stays.
    """

    shape: Literal["constant", "linear", "cosine"] = "constant"
    end: float = 0.0
    start: float = 0.0
    stop: float = 1.0
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise InvalidField("stop", f"0 <= start < stop <= 1 must hold, found {self.start} and {self.stop}")
        if self.end < 0:
            raise InvalidField("end", f"must not be negative, found {self.end}")
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)) or any(not 0 < end <= 1 for end in ends):
            raise InvalidField("stages", f"must end one after the other, in (0, 1], found {ends}")
        if any(stage.factor < 0 for stage in self.stages):
            raise InvalidField("stages", "factors must not be negative")


def stream_weight(
    weight: float, config: WeightScheduleConfig | None, every: int, total_steps: int
) -> float | optax.Schedule:
    """A stream's weight, or a function from the step to it.

    Args:
      weight: the largest.
      config: how it changes; not at all where None.
      every: the stream takes part in every so many steps, beginning with the first.
      total_steps: of the run.
    """
    if config is None and every == 1:
        return weight
    config = config or WeightScheduleConfig()

    def at(step: jax.Array) -> jax.Array:
        factor = _factor(config, step / total_steps)
        return jnp.where(step % every == 0, weight * factor, 0.0)

    return at


def _factor(config: WeightScheduleConfig, progress: jax.Array) -> jax.Array:
    if config.stages:
        factor = jnp.float32(config.stages[-1].factor)
        for stage in reversed(config.stages):
            factor = jnp.where(progress < stage.until, stage.factor, factor)
        return factor
    place = jnp.clip((progress - config.start) / (config.stop - config.start), 0.0, 1.0)
    if config.shape == "cosine":
        place = (1 - jnp.cos(jnp.pi * place)) / 2
    falling = 1.0 if config.shape == "constant" else 1 + (config.end - 1) * place
    return jnp.where((progress >= config.start) & (progress < config.stop), falling, 0.0)
