"""Holding a model's predictions to those that it began with: the divergence from the start as a part of the loss."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.errors import RecipeError
from jaxft.kernels.shapes import Array, OfTokens, Places
from jaxft.models.model import ModelOutput
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, Objective, Ratio, StreamLoss


def held_to_start(objective: Objective, weight: float) -> Objective:
    """The objective with `weight` times the mean `KL(start || now)` in its loss, as learning without forgetting has it
    (Li and Hoiem 2016, arXiv 1606.09282), also reported as `divergence`.

    Every prediction that the objective asks the model for is compared, where its tokens are none of padding.
    """
    return cast(Objective, _HeldToStart(objective, weight))  # which it is in all that is asked of it


class _HeldToStart:
    """The objective itself in everything but its loss."""

    needs_origin = True

    def __init__(self, objective: Objective, weight: float):
        self._objective, self._weight = objective, weight

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that is being made, which has none yet
            raise AttributeError(name)
        return getattr(self._objective, name)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """As `Objective.loss`, with the divergence in it."""
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
        sequences: Sequences,
        targets: Sequences | None = None,
        head: str | tuple[str, ...] | None = None,
        gather: Places | None = None,
    ) -> ModelOutput:
        output = self.apply(sequences, targets, head, gather)
        if output.logits is not None and not isinstance(output.logits, tuple):
            assert self.origin is not None  # as for all that `needs_origin`
            before = self.origin(sequences, targets, head, gather).logits
            read = sequences if targets is None else targets
            places = _places(output.logits, read.segment_ids, gather, self.row_weight)
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
