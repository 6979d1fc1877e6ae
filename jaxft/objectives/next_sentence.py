"""Masked language modelling with next-sentence prediction (BERT, Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sentences import split_sentences
from jaxft.data.sources import Row, text_column
from jaxft.data.store import PART_ENDS, TOKENS, Fields, Record
from jaxft.data.tokenizers.template import cut_pair
from jaxft.errors import InvalidField, RecipeError
from jaxft.kernels.cross_entropy import cross_entropy, is_first, weighted_sums
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.masking import Masking, MaskingConfig
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.rows import lay, lay_out
from jaxft.objectives.shown import ShownRow, gathered_targets, shown_tokens


@dataclasses.dataclass(frozen=True)
class SentencePairConfig(MaskingConfig):
    """What objectives on pairs of sentences have in common; the fields of `MaskingConfig` too.

    Attributes:
      text: column with the documents; long ones are split.
      length: tokens of a row, special tokens included; the model's `max_length` where None.
      pair_weight: of the loss of the pairs beside that of the masked tokens.
    """

    text: str = "text"
    length: int | None = None
    pair_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair_weight < 0:
            raise InvalidField("pair_weight", f"must not be negative, found {self.pair_weight}")


@dataclasses.dataclass(frozen=True)
class NextSentenceConfig(SentencePairConfig):
    """Next-sentence prediction in a recipe; the fields of `SentencePairConfig`."""

    kind: Literal["next_sentence"] = "next_sentence"


class SentencePairs(Objective):
    """Predicts masked tokens, and something about the two segments of a row: the sum of two means."""

    families = frozenset({"encoder"})
    pack = False
    metrics = ("loss", "masked_lm_loss", "accuracy", "pair_loss", "pair_accuracy")
    default_metrics = metrics
    lower_is_better = Objective.lower_is_better | {"masked_lm_loss", "pair_loss"}

    def __init__(self, config: SentencePairConfig, context: ObjectiveContext):
        # Without dropout of its own, as in the authors' code.
        pairs = HeadConfig("sequence_classification", 2, None, dropout=0.0)
        heads = {"masked_lm": HeadConfig("masked_lm"), config.kind: pairs}
        super().__init__(config.kind, context, config.length, heads)
        if context.model.token_types < 2:
            raise RecipeError(f"objective {config.kind}: needs a model with token_types of at least 2, as BERT's")
        if context.tokenizer.start_id is None:
            raise RecipeError(f"objective {config.kind}: this tokenizer has no start token (CLS or BOS)")
        self._config, self._context = config, context
        self.overhead = context.tokenizer.template.pair_overhead
        self._masking = Masking(config.kind, config, context.tokenizer, self.length)

    def fields(self, row: Row) -> Fields:
        """The sentences."""
        return Fields({TOKENS: split_sentences(text_column(row, self._config.text))})

    def record_options(self) -> str:
        """The column."""
        return f"text={self._config.text} sentences"

    def for_evaluation(self) -> Self:
        """With the mask rate of evaluation."""
        return type(self)(self._config.for_evaluation(), self._context)

    @abc.abstractmethod
    def pair(self, record: Record, key: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Both segments, uncut, and the label."""

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A pair.

        Returns:
          `token_ids`, `segment_ids`, `token_types` int32 `(length,)`, what `Masking.apply` adds, `label` int32 `()`.
        """
        (record,), (key,), tokenizer = records, keys, self.tokenizer
        first, second, label = self.pair(record, key)
        first, second = cut_pair(first, second, self.longest)
        ids, kinds = tokenizer.template.row(first, second)
        row = lay_out([ids], self.length, tokenizer.pad_id)
        before, between = (len(fixed.ids) for fixed in tokenizer.template.pair[:2])
        # A piece of one token leaves no second segment.
        segments = [(before, first), (before + len(first) + between, second)] if len(second) else [(before, first)]
        texts = [{TOKENS: segment} for _, segment in segments]
        row = self._masking.apply(row, np.array([start for start, _ in segments]), texts, [key] * len(segments))
        return {**row, "token_types": lay([kinds], self.length), "label": np.array(label, np.int32)}

    def shown(self, row: Batch) -> ShownRow:
        """The pair with the tokens that have to be predicted, and the number of its label."""
        tokens = shown_tokens(row, self.tokenizer, gathered_targets(row, self.tokenizer))
        return ShownRow({"input": tokens}, int(row["label"]))

    def balance(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """With the weight of each pair against one masked token, which makes the sum of sums a sum of means."""
        masked = (batch["label_weights"] * batch["row_weight"][:, None]).sum()
        share = self._config.pair_weight * masked / jnp.maximum(batch["row_weight"].sum(), 1.0)
        return {**batch, "pair_weight": batch["row_weight"] * share}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the masked tokens, and of the pairs."""
        types = batch["token_types"]
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], token_types=types, padded=True)
        logits, pairs = apply(sequences, head=("masked_lm", self.kind), gather=batch["gather"]).logits
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = weighted_sums(logits, batch["labels"], weights)
        tokens = token_loss(sums, weights.sum(), count_tokens(batch["segment_ids"]))
        losses, hits = cross_entropy(pairs, batch["label"]), is_first(pairs, batch["label"])
        rows = batch["row_weight"]
        ratios = {
            **tokens.ratios,
            "masked_lm_loss": Ratio(tokens.loss, tokens.weight),
            "pair_loss": Ratio((losses * rows).sum(), rows.sum()),
            "pair_accuracy": Ratio((hits * rows).sum(), rows.sum()),
        }
        loss = tokens.loss + (losses * batch["pair_weight"]).sum()
        return StreamLoss(loss, tokens.weight, tokens.tokens, ratios)

    def total(self, means: Mapping[str, float]) -> float:
        """Both means."""
        return means["masked_lm_loss"] + self._config.pair_weight * means["pair_loss"]


def sentence_ends(record: Record) -> np.ndarray:
    """Where the sentences of a record end, those without a token left out, int32."""
    ends = np.unique(record[PART_ENDS])
    return ends[ends > 0]


class NextSentence(SentencePairs):
    """Does the second segment follow the first one (0), or is it from another document (1)?

    Half of the second segments are random; a piece of a single sentence always gets a random one, so that more than
    half are random in all, as in the authors' code.
    """

    partner = True

    def pair(self, record: Record, key: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Both segments, and whether the second one is random."""
        tokens, ends = record[TOKENS], sentence_ends(record)
        split = int(ends[key.integers(len(ends) - 1)]) if len(ends) > 1 else len(tokens)
        if len(ends) > 1 and key.random() < 0.5:
            return tokens[:split], tokens[split:], 0
        other = record["partner"]
        begins = np.concatenate([[0], sentence_ends(other)[:-1]])
        begin = int(begins[key.integers(len(begins))])
        # As long as the rest that it replaces: a model must not tell the two by the length of the row.
        length = len(tokens) - split or int(key.integers(1, max(self.longest - split, 1) + 1))
        return tokens[:split], other[TOKENS][begin : begin + length], 1
