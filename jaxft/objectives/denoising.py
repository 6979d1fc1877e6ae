"""What all objectives of encoder-decoders share: rows of sources and targets, and the loss of the targets."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.store import BYTES, Record
from jaxft.data.tokenizers import TextTemplate, Tokenizer
from jaxft.data.tokenizers.template import own_template
from jaxft.errors import RecipeError
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, StreamLoss, count_tokens
from jaxft.objectives.rows import enclose, lay, lay_out
from jaxft.objectives.shown import ShownRow, shown_tokens

# Of the source and the target of a piece, with all special tokens.
Pair = tuple[np.ndarray, np.ndarray]


class SequenceToSequence(Objective):
    """An objective whose examples are a source for the encoder and a target for the decoder.

    Attributes:
      label_smoothing: share of the target that is spread over the vocabulary while training.
    """

    families = frozenset({"encoder_decoder"})
    label_smoothing = 0.0

    def __init__(self, kind: str, context: ObjectiveContext, length: int | None):
        super().__init__(kind, context, length, {"seq2seq_lm": HeadConfig("causal_lm")})
        start_id = context.decoder_start_id
        self._decoder_start_id = decoder_start_id(context.tokenizer, context.model) if start_id is None else start_id

    @abc.abstractmethod
    def example(self, record: Record, key: np.random.Generator) -> Pair:
        """Source and target of a piece."""

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row; source and target of a piece have the same segment.

        Returns:
          `token_ids`, `segment_ids`, `positions` int32 `(length,)`, the same with the prefix `target_`, and `labels`
          int32 and `label_weights` float32 `(target_length,)`; `bytes` float32 `()`.
        """
        pairs = [self.example(record, key) for record, key in zip(records, keys, strict=True)]
        targets = [target for _, target in pairs]
        shifted = [enclose((self._decoder_start_id,), target[:-1]) for target in targets]
        pad_id = self.tokenizer.pad_id
        return {
            **lay_out([source for source, _ in pairs], self.length, pad_id),
            **lay_out(shifted, self.target_length, pad_id, "target_"),
            "labels": lay(targets, self.target_length),
            "label_weights": lay([np.ones(len(target)) for target in targets], self.target_length, dtype=np.float32),
            "bytes": np.array(sum(record.get(BYTES, 0) for record in records), np.float32),
        }

    def shown(self, row: Batch) -> ShownRow:
        """Sources, and targets in which what is learned is marked."""
        target = {"token_ids": row["labels"], "segment_ids": row["target_segment_ids"]}
        learned = shown_tokens(target, self.tokenizer, predicted=row["label_weights"] > 0)
        return ShownRow({"input": shown_tokens(row, self.tokenizer), "target": learned})

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the targets."""
        source = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"])
        target = Sequences(batch["target_token_ids"], batch["target_segment_ids"], batch["target_positions"])
        smoothing = 0.0 if self.evaluating else self.label_smoothing
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = apply.token_sums(batch["labels"], weights, self.head_name, source, target, label_smoothing=smoothing)
        tokens = count_tokens(batch["segment_ids"], batch["target_segment_ids"])
        return token_loss(sums, weights.sum(), tokens)


def decoder_start_id(tokenizer: Tokenizer, model: ModelConfig) -> int:
    """What the decoder of a model that was made here begins with: padding, as T5's does, or a separator, as BART's."""
    return tokenizer.pad_id if model.position == "relative_bias" else tokenizer.separator_id


def seq2seq_template(tokenizer: Tokenizer, is_foreign: bool) -> TextTemplate:
    """What stands around sources and targets of an encoder-decoder.

    Args:
      tokenizer: of the model.
      is_foreign: whether its weights came from Hugging Face; texts of models that are made here end with a separator,
        as T5's do, unless the tokenizer's class has them otherwise wherever it is read.
    """
    if is_foreign or not tokenizer.is_generic:
        return tokenizer.template
    return own_template(None, tokenizer.separator_id)


def sentinels_of(kind: str, context: ObjectiveContext) -> np.ndarray:
    """Ids of the tokens that stand for spans, the first one first, int32.

    Raises:
      RecipeError: the tokenizer has none.
    """
    ids = np.array(context.tokenizer.sentinel_ids, np.int32)
    if not len(ids):
        raise RecipeError(
            f"objective {kind}: this tokenizer has no sentinels (<extra_id_0>, ...); use T5's, or train one with "
            "`tokenizer: {train: {sentinels: 100}}`"
        )
    return ids
