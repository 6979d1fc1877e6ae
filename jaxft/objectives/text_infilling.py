"""Text infilling with permuted sentences (BART, Lewis et al. 2019, arXiv 1910.13461)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from jaxft.data.sentences import split_sentences
from jaxft.data.sources import Row, text_column
from jaxft.data.store import PART_ENDS, TOKENS, Fields, Record
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.config import TextConfig
from jaxft.objectives.denoising import Pair, SequenceToSequence
from jaxft.objectives.masking import place_spans
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.rows import enclose


@dataclasses.dataclass(frozen=True)
class TextInfillingConfig(TextConfig):
    """Text infilling in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of both rows, special tokens included; the model's `max_length` where None.
      noise_rate: share of the words that are masked.
      span_length: mean of the Poisson distribution of the words in a span; a span of none inserts a mask.
      permute_sentences: whether the source has the sentences in a random order.
    """

    kind: Literal["text_infilling"] = "text_infilling"
    text: str = "text"
    length: int | None = None
    noise_rate: float = 0.3
    span_length: float = 3.0
    permute_sentences: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.noise_rate < 1:
            raise InvalidField("noise_rate", f"must lie between 0 and 1, found {self.noise_rate}")
        if self.span_length <= 0:
            raise InvalidField("span_length", f"must be positive, found {self.span_length}")


class TextInfilling(SequenceToSequence):
    """Spans of words are replaced by one mask each, sentences are shuffled, and the decoder writes the whole text."""

    def __init__(self, config: TextInfillingConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length)
        mask_id = context.tokenizer.mask_id
        if mask_id is None:
            raise RecipeError(f"objective {config.kind}: this tokenizer has no mask token")
        self._mask_id = mask_id
        self._config, self.target_length = config, self.length
        self._continues = context.tokenizer.is_continuation()

    def fields(self, row: Row) -> Fields:
        """The sentences."""
        return Fields({TOKENS: split_sentences(text_column(row, self._config.text))})

    def record_options(self) -> str:
        """The column."""
        return f"text={self._config.text} sentences"

    def example(self, record: Record, key: np.random.Generator) -> Pair:
        """Source and target of a piece, each between start and end."""
        tokens, tokenizer = record[TOKENS], self.tokenizer
        shuffled = permuted(tokens, record[PART_ENDS], key) if self._config.permute_sentences else tokens
        source = self._infilled(shuffled, key)
        start = () if tokenizer.start_id is None else (tokenizer.start_id,)
        end = tokenizer.separator_id
        return enclose(start, source, end), enclose(start, tokens, end)

    def _infilled(self, tokens: np.ndarray, key: np.random.Generator) -> np.ndarray:
        starts = ~self._continues[tokens]
        starts[0] = True
        words = np.cumsum(starts) - 1
        count = int(words[-1]) + 1
        budget = math.ceil(self._config.noise_rate * count)
        lengths = draw_spans(budget, self._config.span_length, key)
        spans = key.permutation(lengths[lengths > 0])
        hidden = place_spans(count, spans, key)
        # Each span is replaced by the mask at its first token; spans that there was no room to keep apart are one.
        first_words = hidden & ~np.concatenate([[False], hidden[:-1]])
        masked = hidden[words]
        keep = ~masked | (starts & first_words[words])
        source = np.where(masked, self._mask_id, tokens)[keep]
        # Insertions lengthen the source, which must not outgrow the target.
        insertions = min(int((lengths == 0).sum()), len(tokens) - len(source))
        places = key.integers(len(source) + 1, size=insertions)
        return np.insert(source, places, self._mask_id)


def draw_spans(budget: int, mean: float, key: np.random.Generator) -> np.ndarray:
    """Poisson lengths, int64, until they sum to `budget`; the last one is cut to it."""
    lengths = key.poisson(mean, max(16, math.ceil(4 * budget / mean)))
    while lengths.sum() < budget:
        lengths = np.concatenate([lengths, key.poisson(mean, len(lengths))])
    ends = np.cumsum(lengths)
    lengths = lengths[: int(np.searchsorted(ends, budget)) + 1].copy()
    lengths[-1] -= lengths.sum() - budget
    return lengths


def permuted(tokens: np.ndarray, ends: np.ndarray, key: np.random.Generator) -> np.ndarray:
    """The sentences, which end at `ends`, in a random order."""
    sentences = np.split(tokens, ends[:-1])
    return np.concatenate([sentences[i] for i in key.permutation(len(sentences))])
