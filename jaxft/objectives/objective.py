"""The protocol that every objective follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row
from jaxft.data.store import Fields, Record
from jaxft.models.heads import HeadConfig
from jaxft.models.model import ModelOutput
from jaxft.models.transformer import Sequences


@flax.struct.dataclass
class StreamLoss:
    """Sums over a batch, never means, so that any split of the batch adds up to the same.

    Attributes:
      loss: float32 scalar, sum of the weighted losses in nats.
      weight: float32 scalar, sum of the weights: masked tokens, examples, ...
      tokens: float32 scalar, tokens read, without padding.
      sums: further sums that are reported divided by `weight`, such as `accuracy`.
    """

    loss: jax.Array
    weight: jax.Array
    tokens: jax.Array
    sums: Mapping[str, jax.Array]


class Apply(Protocol):
    """A model with its parameters and random keys bound."""

    def __call__(
        self,
        sequences: Sequences,
        targets: Sequences | None = None,
        head: str | None = None,
        gather: jax.Array | None = None,
    ) -> ModelOutput:
        """As `jaxft.models.model.Model.__call__`."""


class Objective(Protocol):
    """An objective, ready for a tokenizer and a length.

    Attributes:
      head_name: name of its head on the trunk; objectives with the same name share the head.
      head: what that head is.
      length: tokens of a row.
      overhead: special tokens that every piece of text brings with it.
      pack: whether several pieces may share a row.
      truncate: whether a long text is cut rather than split into several pieces.
      metrics: names of the metrics that its evaluation can report, the most telling first.
      default_metrics: those that it reports where a recipe names none.
      lower_is_better: those of them that are better when lower.
      labels: names of a classifier's outputs; empty for other objectives.
    """

    head_name: str
    head: HeadConfig
    length: int
    overhead: int
    pack: bool
    truncate: bool
    metrics: tuple[str, ...]
    default_metrics: tuple[str, ...]
    lower_is_better: frozenset[str]
    labels: tuple[str, ...]

    def fields(self, row: Row) -> Fields:
        """What to keep of a row of the source.

        Raises:
          DataError: a column is missing or its value cannot be used.
        """

    def record_options(self) -> str:
        """All options that `fields` depends on, for the fingerprint of the store."""

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One row of a batch; a pure function on the host (see `jaxft.data.batches.MakeRow`)."""

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """The loss of a batch; pure and differentiable in what `apply` binds."""

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Per-row outputs `(batch, ...)` that metrics beyond `StreamLoss` need; empty where there are none."""

    def for_evaluation(self) -> Objective:
        """The same objective with what evaluation fixes (a mask rate that all recipes share, say)."""


def count_tokens(segment_ids: jax.Array) -> jax.Array:
    """Tokens that are not padding, float32 scalar."""
    return (segment_ids > 0).sum(dtype=jnp.float32)


def concatenate(records: list[np.ndarray], length: int, start_id: int, separator_id: int, pad_id: int) -> Batch:
    """Lays pieces of text side by side in a row: `[start] piece [separator]` for each.

    Args:
      records: int32 arrays of tokens.
      length: tokens of the row, at least the pieces with two special tokens each.
      start_id: id before each piece.
      separator_id: id after it.
      pad_id: id that fills the row.

    Returns:
      `token_ids`, `segment_ids` (1, 2, ... and 0 for padding) and `positions` (restarting), int32 `(length,)`.
    """
    token_ids = np.full(length, pad_id, np.int32)
    segment_ids = np.zeros(length, np.int32)
    positions = np.zeros(length, np.int32)
    place = 0
    for number, tokens in enumerate(records, 1):
        end = place + len(tokens) + 2
        token_ids[place] = start_id
        token_ids[place + 1 : end - 1] = tokens
        token_ids[end - 1] = separator_id
        segment_ids[place:end] = number
        positions[place:end] = np.arange(end - place)
        place = end
    return {"token_ids": token_ids, "segment_ids": segment_ids, "positions": positions}
