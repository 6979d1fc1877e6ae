"""Holding a model's predictions to those that it began with: the divergence from the start as a part of the loss."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxft.errors import RecipeError
from jaxft.models.model import ModelOutput
from jaxft.objectives.objective import Apply, Objective, Ratio, StreamLoss


def held_to_start(objective: Objective, weight: float) -> Objective:
    """The objective with `weight` times the mean `KL(start || now)` in its loss, as learning without forgetting has it
    (Li and Hoiem 2016, arXiv 1606.09282), also reported as `divergence`.

    Every prediction that the objective asks the model for is compared, where its tokens are none of padding.
    """
    held = copy.copy(objective)
    held.needs_origin = True

    def loss(apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        watched = _Watched(apply, batch["row_weight"])
        sums = objective.loss(watched, batch)
        if not watched.found:
            raise RecipeError(f"objective {objective.kind} makes no prediction that could be held to the start")
        total, count = (sum(parts) for parts in zip(*watched.found, strict=True))
        # As large a part of the mean loss, whatever the two are means over.
        share = sums.weight / jnp.maximum(count, 1.0)
        ratios = {**sums.ratios, "divergence": Ratio(total, count)}
        return sums.replace(loss=sums.loss + weight * share * total, ratios=ratios)

    held.loss = loss
    return held


@dataclasses.dataclass
class _Watched(Apply):
    """A model that also asks the start for each of its predictions.

    Attributes:
      apply: the model.
      row_weight: float32 `(batch,)`.
      found: sums of divergences and of places, one pair for each prediction.
    """

    apply: Apply
    row_weight: jax.Array
    found: list[tuple[jax.Array, jax.Array]] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> jax.Array | None:
        """Of the model."""
        return self.apply.key

    @property
    def origin(self) -> Apply | None:
        """Of the model."""
        return self.apply.origin

    def __call__(self, sequences, targets=None, head=None, gather=None) -> ModelOutput:
        output = self.apply(sequences, targets, head, gather)
        if output.logits is not None and not isinstance(output.logits, tuple):
            before = self.apply.origin(sequences, targets, head, gather).logits
            read = sequences if targets is None else targets
            places = _places(output.logits, read.segment_ids, gather, self.row_weight)
            self.found.append(((divergence(before, output.logits) * places).sum(), places.sum()))
        return output


def _places(logits: jax.Array, segment_ids: jax.Array, gather: jax.Array | None, row_weight: jax.Array) -> jax.Array:
    """Weight of each prediction, float32 of the shape of `logits` without its last axis."""
    rows = row_weight
    if rows.shape[0] != logits.shape[0]:  # several texts of one row
        rows = jnp.repeat(rows, logits.shape[0] // rows.shape[0])
    if logits.ndim == 2:
        return rows
    real = segment_ids > 0
    if gather is not None:
        # A row with fewer places than there is room for repeats one: each counts once.
        before = jnp.tril(jnp.ones((gather.shape[1],) * 2, bool), -1)
        repeated = ((gather[:, :, None] == gather[:, None, :]) & before).any(2)
        real = jnp.take_along_axis(real, gather, axis=1) & ~repeated
    return real * rows[:, None]


def divergence(start: jax.Array, now: jax.Array) -> jax.Array:
    """`KL(start || now)` of the distributions over the last axis, in nats, float32."""
    start = jax.nn.log_softmax(start.astype(jnp.float32))
    now = jax.nn.log_softmax(now.astype(jnp.float32))
    return (jnp.exp(start) * (start - now)).sum(-1)
