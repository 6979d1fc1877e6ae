"""What objectives that say something of a text, or of a pair of texts, have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Record
from jaxft.data.tokenizers import Tokenizer
from jaxft.data.tokenizers.template import cut_pair
from jaxft.errors import InvalidField, RecipeError
from jaxft.kernels.shapes import Array
from jaxft.models.heads import HeadConfig, HeadKind
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext
from jaxft.objectives.rows import lay, lay_out

_PAIR = "pair"


def check_shares(config: object, *names: str) -> None:
    """Makes sure that fields of a config lie in [0, 1).

    Raises:
      InvalidField: one does not.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise InvalidField(name, f"must be in [0, 1), found {getattr(config, name)}")


class TextTask(Objective):
    """A head reads the vector of each text or pair.

    Its config has the columns `text` and `pair` (or None), and `length`, `pooling` and `dropout`.
    """

    families = frozenset({"encoder", "decoder"})
    pack = False
    truncate = True
    augmentable = True
    predicts = True
    lower_is_better = frozenset({"loss"})

    def __init__(
        self, config: Any, context: ObjectiveContext, outputs: int, head_kind: HeadKind = "sequence_classification"
    ):
        """
        Args:
          config: see there.
          context: what the objective stands in; the stream's name is that of the head.
          outputs: numbers that the head gives.
          head_kind: as in `HeadConfig`.

        Raises:
          RecipeError: see `Objective`; an encoder needs a start token.
        """
        head = HeadConfig(head_kind, outputs, config.pooling, dropout=config.dropout)
        super().__init__(config.kind, context, config.length, {context.stream: head})
        if context.tokenizer.start_id is None and context.model.family == "encoder":
            raise RecipeError(f"objective {config.kind}: this tokenizer has no start token (CLS or BOS)")
        self._config, self._context = config, context
        self.overhead = context.tokenizer.template.overhead

    def texts(self, row: Row) -> dict[str, str]:
        """The text, and the second one of a pair."""
        texts = {TOKENS: text_column(row, self._config.text)}
        if self._config.pair is not None:
            texts[_PAIR] = text_column(row, self._config.pair)
        return texts

    def text_row(self, record: Record) -> Batch:
        """One text or pair: `token_ids`, `segment_ids`, `token_types` int32 `(length,)`."""
        return lay_pair(record[TOKENS], record.get(_PAIR), self.length, self.tokenizer)

    def logits(
        self, apply: Apply, batch: Mapping[str, jax.Array], views: int = 1
    ) -> Float[Array, "batch views outputs"]:
        """What the head gives, float32 `(batch, views, outputs)`.

        Args:
          apply: the model.
          batch: of rows as `text_row` makes them.
          views: how often each row is read, every time under another dropout mask.
        """
        # The views of a row stand side by side, so that they lie on the device that holds the row.
        ids, segments, types = (
            jnp.repeat(batch[name], views, axis=0) for name in ("token_ids", "segment_ids", "token_types")
        )
        logits = apply(Sequences(ids, segments, token_types=types, padded=True), head=self.head_name).logits
        return logits.reshape(-1, views, logits.shape[-1])


def lay_pair(first: np.ndarray, second: np.ndarray | None, length: int, tokenizer: Tokenizer) -> Batch:
    """A text or a pair in a row, with the special tokens of the tokenizer's template, cut where it is too long.

    Args:
      first: int32 tokens, which fit where they are alone.
      second: int32 tokens, or None.
      length: tokens of the row.
      tokenizer: of the special tokens.

    Returns:
      `token_ids`, `segment_ids`, `token_types` int32 `(length,)`.
    """
    template = tokenizer.template
    if second is not None:
        first, second = cut_pair(first, second, length - template.pair_overhead)
    ids, types = template.row(first, second)
    row = lay_out([ids], length, tokenizer.pad_id)
    del row["positions"]
    return {**row, "token_types": lay([types], length)}
