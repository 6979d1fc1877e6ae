"""Holding a model's predictions to those that it began with: the divergence from the start as a part of the loss."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row
from jaxft.data.store import Fields, Record
from jaxft.errors import RecipeError
from jaxft.kernels.shapes import Array, OfTokens, Places
from jaxft.models.model import ModelOutput
from jaxft.models.transformer import Images, Sequences
from jaxft.objectives.objective import Apply, Objective, Ratio, StreamLoss
from jaxft.objectives.shown import ShownRow


class HeldToStart(Objective):
    """An objective with a multiple of the mean `KL(start || now)` in its loss, as learning without forgetting has it
    (Li and Hoiem 2016, arXiv 1606.09282), which is also reported as `divergence`. All else is the other objective's.

    Every prediction that the objective asks the model for is compared, where its tokens are none of padding.
    """

    def __init__(self, objective: Objective, weight: float):
        """
        Args:
          objective: that is held.
          weight: of the mean divergence beside the objective's mean loss.
        """
        for name in Objective.__annotations__:
            setattr(self, name, getattr(objective, name))
        vars(self).update(vars(objective))
        self.needs_origin = True
        self._objective, self._weight = objective, weight

    @property
    def longest(self) -> int:
        """The other's."""
        return self._objective.longest

    def room(self, lengths: np.ndarray) -> np.ndarray:
        """The other's."""
        return self._objective.room(lengths)

    def fields(self, row: Row) -> Fields:
        """The other's."""
        return self._objective.fields(row)

    def unlabelled_fields(self, row: Row) -> Fields:
        """The other's."""
        return self._objective.unlabelled_fields(row)

    def record_options(self) -> str:
        """The other's."""
        return self._objective.record_options()

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """The other's."""
        return self._objective.make_row(records, keys)

    def shown(self, row: Batch) -> ShownRow:
        """The other's."""
        return self._objective.shown(row)

    def balance(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The other's."""
        return self._objective.balance(batch)

    def total(self, means: Mapping[str, float]) -> float:
        """The other's."""
        return self._objective.total(means)

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The other's."""
        return self._objective.outputs(apply, batch)

    def for_evaluation(self) -> HeldToStart:
        """The other as evaluation uses it, held to the start likewise."""
        return HeldToStart(self._objective.for_evaluation(), self._weight)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """The other's, with the divergence in it."""
        watched = _Watched(apply, batch["row_weight"])
        sums = self._objective.loss(watched, batch)
        if not watched.found:
            raise RecipeError(f"objective {self._objective.kind} makes no prediction that could be held to the start")
        total, count = (functools.reduce(jnp.add, parts) for parts in zip(*watched.found, strict=True))
        # As large a part of the mean loss, whatever the two are means over.
        share = sums.weight / jnp.maximum(count, 1.0)
        ratios = {**sums.ratios, "divergence": Ratio(total, count)}
        return StreamLoss(sums.loss + self._weight * share * total, sums.weight, sums.tokens, ratios)


class _Watched(Apply):
    """A model that also asks the start for each of its predictions.

    Attributes:
      apply: the model.
      row_weight: float32 `(batch,)`.
      found: sums of divergences and of places, one pair for each prediction.
    """

    def __init__(self, apply: Apply, row_weight: jax.Array):
        self.apply, self.row_weight = apply, row_weight
        self.key, self.origin = apply.key, apply.origin
        self.found: list[tuple[jax.Array, jax.Array]] = []

    def __call__(
        self,
        sequences: Sequences | Images,
        targets: Sequences | None = None,
        head: str | tuple[str, ...] | None = None,
        gather: Places | None = None,
    ) -> ModelOutput:
        output = self.apply(sequences, targets, head, gather)
        if output.logits is not None and not isinstance(output.logits, tuple):
            assert self.origin is not None  # as for all that `needs_origin`
            before = self.origin(sequences, targets, head, gather).logits
            read = sequences if targets is None else targets
            segment_ids = None if isinstance(read, Images) else read.segment_ids
            places = _places(output.logits, segment_ids, gather, self.row_weight)
            self.found.append(((divergence(before, output.logits) * places).sum(), places.sum()))
        return output


def _places(
    logits: Float[Array, "*places classes"],
    segment_ids: OfTokens | None,
    gather: Places | None,
    row_weight: Float[Array, " rows"],
) -> Float[Array, "*places"]:
    """Weight of each prediction, float32 of the shape of `logits` without its last axis."""
    rows = row_weight
    if rows.shape[0] != logits.shape[0]:  # several texts of one row
        rows = jnp.repeat(rows, logits.shape[0] // rows.shape[0])
    if logits.ndim == 2:
        return rows
    assert segment_ids is not None  # of every batch of tokens
    real = segment_ids > 0
    if gather is not None:
        # A row with fewer places than there is room for repeats one: each counts once.
        before = jnp.tril(jnp.ones((gather.shape[1],) * 2, bool), -1)
        repeated = ((gather[:, :, None] == gather[:, None, :]) & before).any(2)
        real = jnp.take_along_axis(real, gather, axis=1) & ~repeated
    return real * rows[:, None]


def divergence(start: Float[Array, "*places classes"], now: Float[Array, "*places classes"]) -> Float[Array, "*places"]:
    """`KL(start || now)` of the distributions over the last axis, in nats, float32."""
    start = jax.nn.log_softmax(start.astype(jnp.float32))
    now = jax.nn.log_softmax(now.astype(jnp.float32))
    return (jnp.exp(start) * (start - now)).sum(-1)
