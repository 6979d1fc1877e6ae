"""Causal language modelling (GPT, Radford et al. 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import BYTES, TOKENS, Fields, Record
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.config import TextConfig
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, StreamLoss, count_tokens
from jaxft.objectives.rows import enclose, lay, lay_out
from jaxft.objectives.shown import ShownRow, next_tokens


@dataclasses.dataclass(frozen=True)
class CausalLMConfig(TextConfig):
    """Causal language modelling in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row; the model's `max_length` where None.
    """

    kind: Literal["causal_lm"] = "causal_lm"
    text: str = "text"
    length: int | None = None


def document_fields(row: Row, column: str) -> Fields:
    """The text of a row, and its length in bytes."""
    text = text_column(row, column)
    return Fields({TOKENS: text}, {BYTES: len(text.encode())})


class CausalLM(Objective):
    """Predicts every token from those before it in its document.

    A piece begins with what the tokenizer puts before texts, and the end token is predicted where the document
    ends, not where it was split. On an encoder it reads from left to right too, so that one stack can learn both ways
    in a mix of streams (GPT-BERT, Charpentier and Samuel 2024, arXiv 2410.24159).
    """

    families = frozenset({"encoder", "decoder"})
    metrics: tuple[str, ...] = ("loss", "perplexity", "accuracy", "bits_per_byte")
    default_metrics = metrics

    def __init__(self, config: Any, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length, {"causal_lm": HeadConfig("causal_lm")})
        self._config = config
        # A text begins as its tokenizer has it, and ends with the token that ends texts, whether prompts do or not.
        self._start = context.tokenizer.template.before.ids
        self.overhead = len(self._start)

    def fields(self, row: Row) -> Fields:
        """The text and its bytes."""
        return document_fields(row, self._config.text)

    def record_options(self) -> str:
        """The column."""
        return f"text={self._config.text} bytes"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row.

        Returns:
          `token_ids`, `segment_ids`, `positions`, `labels` int32 and `label_weights` float32 `(length,)`; `bytes`
          float32 `()`.
        """
        return self._row(records, [self._weights(record, key) for record, key in zip(records, keys, strict=True)])

    def shown(self, row: Batch) -> ShownRow:
        """The row, in which what is learned is marked."""
        return ShownRow({"input": next_tokens(row, self.tokenizer)})

    def _row(self, records: list[Record], weights: list[np.ndarray]) -> Batch:
        tokenizer = self.tokenizer
        whole = [enclose(self._start, record[TOKENS], tokenizer.separator_id) for record in records]
        return {
            **lay_out([piece[:-1] for piece in whole], self.length, tokenizer.pad_id),
            "labels": lay([piece[1:] for piece in whole], self.length),
            "label_weights": lay(weights, self.length, dtype=np.float32),
            "bytes": np.array(sum(record.get(BYTES, 0) for record in records), np.float32),
        }

    def _weights(self, record: Record, key: np.random.Generator) -> np.ndarray:
        """Which labels of a piece count, `(tokens + start,)`."""
        weights = np.ones(len(record[TOKENS]) + self.overhead, np.float32)
        weights[-1] = record.get("ends", True)
        return weights

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the next tokens."""
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = apply.token_sums(batch["labels"], weights, self.head_name, self.sequences(batch))
        text_bytes = batch["bytes"] * batch["row_weight"] if self.evaluating else None
        return token_loss(sums, weights.sum(), count_tokens(batch["segment_ids"]), text_bytes)

    def sequences(self, batch: Mapping[str, jax.Array]) -> Sequences:
        """What the model reads, from left to right."""
        return Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"], causal=True)
