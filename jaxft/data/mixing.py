"""Several sources in one stream: exact shares at every point, found by a formula, and shares that change with time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxft.errors import InvalidField

# Shares are whole multiples of this, so that the arithmetic of rows is exact.
_RESOLUTION = 1 << 20


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """Shares from some step on.

    Attributes:
      start: step, or a share of all steps where below 1.
      weights: of the sources, in their order.
    """

    start: float
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.start <= 0 or (self.start >= 1 and self.start != int(self.start)):
            raise InvalidField("start", f"must be a share below 1 or a whole number of steps, found {self.start}")
        _check_weights(self.weights)


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """How the sources of a stream share its rows; without it they are read as one source.

    Attributes:
      weights: shares of the sources, in their order; by their numbers of rows where None.
      temperature: flattens shares by numbers of rows: they are to the power of `1 / temperature` (Xue et al. 2020,
        arXiv 2010.11934).
      stages: other shares later on (a curriculum), in the order of their starts.
    """

    weights: tuple[float, ...] | None = None
    temperature: float = 1.0
    stages: tuple[StageConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InvalidField("temperature", f"must be positive, found {self.temperature}")
        if self.weights is not None:
            _check_weights(self.weights)
            if self.temperature != 1.0:
                raise InvalidField("temperature", "flattens shares by numbers of rows; give it or weights")


def _check_weights(weights: tuple[float, ...]) -> None:
    if any(weight < 0 or not math.isfinite(weight) for weight in weights) or not sum(weights) > 0:
        raise InvalidField("weights", f"must be 0 or more and not all 0, found {list(weights)}")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Which source gives which row of a stream without end.

    Attributes:
      starts: first row of each stage, increasing from 0.
      shares: for each stage the shares of the sources, each making up 1.
    """

    starts: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source, and number of the row within that source, of rows of the stream; int64 each.

        Within a stage, the first `n` rows hold every source's share of `n` to within less than the number of sources.
        """
        numbers = np.asarray(numbers, np.int64)
        stages = np.searchsorted(self.starts, numbers, side="right") - 1
        sources, indices = np.empty_like(numbers), np.empty_like(numbers)
        for stage in np.unique(stages).tolist():
            here = stages == stage
            sources[here], own = _split(numbers[here] - self.starts[stage], self.shares[stage])
            indices[here] = own + self._before(stage)[sources[here]]
        return sources, indices

    def _before(self, stage: int) -> np.ndarray:
        """Rows of each source in earlier stages."""
        before = np.zeros(len(self.shares[0]), np.int64)
        for number in range(stage):
            length = self.starts[number + 1] - self.starts[number]
            before += _counts(length, self.shares[number])
        return before


def _split(numbers: np.ndarray, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Source and index within it of rows: one source after the other takes its evenly spaced part of what is left."""
    sources, indices = np.full(len(numbers), len(shares) - 1), numbers.copy()
    open_rows = np.ones(len(numbers), bool)
    for source, part in enumerate(_parts(shares)):
        before, after = (indices * part) // _RESOLUTION, ((indices + 1) * part) // _RESOLUTION
        taken = open_rows & (after > before)
        sources[taken], indices[taken] = source, before[taken]
        open_rows &= ~taken
        indices[open_rows] -= before[open_rows]
    return sources, indices


def _counts(length: int, shares: tuple[float, ...]) -> np.ndarray:
    """How many of the first `length` rows each source gives, int64."""
    counts, rest = [], length
    for part in _parts(shares):
        counts.append(rest * part // _RESOLUTION)
        rest -= counts[-1]
    return np.array([*counts, rest][: len(shares)], np.int64)


def _parts(shares: tuple[float, ...]) -> list[int]:
    """What each source takes of the rows that those before it leave, in units of the resolution; the last takes all."""
    parts, rest = [], 1.0
    for share in shares:
        parts.append(_RESOLUTION if share >= rest - 1e-12 else round(share / rest * _RESOLUTION))
        rest -= share
    parts[-1] = _RESOLUTION
    return parts


def make_mixture(config: MixingConfig, rows: list[int], batch_size: int, total_steps: int) -> Mixture:
    """The mixture of a stream.

    Args:
      config: what the recipe says.
      rows: of each source.
      batch_size: rows of a batch.
      total_steps: of the run, of which stages may be shares.

    Raises:
      InvalidField: stages out of order.
    """
    weights = config.weights or tuple(float(count) ** (1 / config.temperature) for count in rows)
    starts, shares = [0], [_normalized(weights)]
    for stage in config.stages:
        step = round(stage.start * total_steps) if stage.start < 1 else int(stage.start)
        if step * batch_size <= starts[-1]:
            raise InvalidField("stages", f"must begin one after the other, found {[s.start for s in config.stages]}")
        starts.append(step * batch_size)
        shares.append(_normalized(stage.weights))
    return Mixture(tuple(starts), tuple(shares))


def _normalized(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(weight / sum(weights) for weight in weights)
