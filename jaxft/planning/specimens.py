"""Stands in for data and vocabularies that are not here: rows that fill every batch, and a tokenizer of a size."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from jaxft.data.tokenizers import Part
from jaxft.objectives.image_classification import ImageClassificationConfig
from jaxft.objectives.instruction import InstructionConfig
from jaxft.objectives.multi_label_classification import MultiLabelClassificationConfig
from jaxft.objectives.multiple_choice import MultipleChoiceConfig
from jaxft.objectives.question_answering import QuestionAnsweringConfig
from jaxft.objectives.registry import ObjectiveConfig
from jaxft.objectives.regression import RegressionConfig
from jaxft.objectives.sentence_similarity import SentenceSimilarityConfig
from jaxft.objectives.sequence_classification import SequenceClassificationConfig
from jaxft.objectives.token_classification import TokenClassificationConfig

_WORD = "word"
_SENTENCE = 16
# Fields of the objectives' configs that name a column with text.
_TEXTS = (
    "text", "pair", "negative", "source", "target", "prompt", "response", "chosen", "rejected", "good", "bad",
    "question", "context",
)  # fmt: skip
_SPECIAL = 5


def specimen_rows(config: ObjectiveConfig, length: int, count: int = 2) -> list[dict[str, Any]]:
    """Rows of a source that an objective can use, with texts that are longer than any row of a batch.

    Args:
      config: what the recipe says of the objective.
      length: tokens of the longest row; texts have four times as many words, as what is cut out of them leaves room.
      count: of rows; labels that the recipe leaves out are the numbers of the rows.
    """
    return [_specimen(config, 4 * length, number) for number in range(count)]


def _specimen(config: ObjectiveConfig, words: int, number: int) -> dict[str, Any]:
    text = _text(words)
    row: dict[str, Any] = {}
    for field in _TEXTS:
        column = getattr(config, field, None)
        if isinstance(column, str):
            # No two alike: answers of which one is preferred must differ.
            row[column] = f"{field} {text}"
    return row | _special_columns(config, text, number)


def _text(words: int) -> str:
    sentence = " ".join([_WORD] * _SENTENCE) + "."
    return " ".join([sentence] * max(1, words // _SENTENCE))


def _special_columns(config: ObjectiveConfig, text: str, number: int) -> dict[str, Any]:
    """The columns that hold no text."""
    labels = getattr(config, "labels", None) or ("0", "1")
    label = labels[number % len(labels)]
    match config:
        case SequenceClassificationConfig():
            return {config.label: label}
        case MultiLabelClassificationConfig():
            return {config.label: list(labels)}
        case ImageClassificationConfig():
            return {"image": np.zeros((8, 8), np.uint8), "label": label}
        case TokenClassificationConfig():
            words = text.split()
            return {config.tokens: words, config.tags: [label] * len(words)}
        case RegressionConfig():
            return {column: float(number) for column in config.target}
        case SentenceSimilarityConfig():
            return {config.score: float(number)}
        case MultipleChoiceConfig(choices=(column,)):
            return {column: [text] * (config.most or 2), config.label: 0}
        case MultipleChoiceConfig():
            return {**dict.fromkeys(config.choices, text), config.label: 0}
        case QuestionAnsweringConfig():
            return {config.question: _WORD, config.context: text, config.answers: [{"text": _WORD, "start": 0}]}
        case InstructionConfig(messages=str(column)):
            turns = [{"role": "user", "content": _WORD}, {"role": "assistant", "content": text}]
            return {column: turns}
    return {}


@dataclasses.dataclass(frozen=True)
class PlannedTokenizer:
    """A tokenizer of which only the size is known: every word is one token, always the same.

    See `jaxft.data.tokenizers.Tokenizer`; its special tokens are those of the vocabularies that jaxft trains.

    Attributes:
      vocab_size: number of ids.
      sentinels: how many of them stand for spans.
      special_tokens: further special tokens.
    """

    vocab_size: int
    sentinels: int = 0
    special_tokens: tuple[str, ...] = ()

    pad_id, unknown_id, start_id, separator_id, mask_id = range(_SPECIAL)
    fingerprint = "planned"
    chat_template = None
    token_names: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        """The ids after the special ones that every vocabulary has."""
        return tuple(range(_SPECIAL, _SPECIAL + self.sentinels))

    @property
    def special_ids(self) -> frozenset[int]:
        """All ids before that of the word."""
        return frozenset(range(self._word_id))

    @property
    def _word_id(self) -> int:
        return _SPECIAL + self.sentinels + len(self.special_tokens)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The same id for each word."""
        return [np.full(len(text.split()), self._word_id, np.int32) for text in texts]

    def encode_with_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """With where each word stands."""
        spans = [np.array([word.span() for word in re.finditer(r"\S+", text)], np.int32) for text in texts]
        return [(ids, span.reshape(-1, 2)) for ids, span in zip(self.encode(texts), spans, strict=True)]

    def encode_parts(self, texts: Sequence[Sequence[Part]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The words of each part, and the special tokens that a template wrote."""
        return [self._encoded_parts(parts) for parts in texts]

    def _encoded_parts(self, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
        ids: list[int] = []
        learned: list[bool] = []
        for part in parts:
            own = self._part_ids(part)
            ids += own
            learned += [part.learned] * len(own)
        return np.array(ids, np.int32), np.array(learned, bool)

    def _part_ids(self, part: Part) -> list[int]:
        known = {token: _SPECIAL + self.sentinels + number for number, token in enumerate(self.special_tokens)}
        if not part.template or not known:
            return [self._word_id] * len(part.text.split())
        pieces = re.split("(" + "|".join(map(re.escape, known)) + ")", part.text)
        return [known.get(word, self._word_id) for piece in pieces for word in piece.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """As many words."""
        return " ".join(self.tokens(ids))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The word for each id."""
        return [_WORD for _ in ids]

    def is_continuation(self) -> np.ndarray:
        """No id continues a word."""
        return np.zeros(self.vocab_size, bool)

    def save(self, directory: Path) -> None:
        """Nothing is written: there is no vocabulary."""
        raise NotImplementedError("a planned tokenizer has no vocabulary to save")

    def export(self, directory: Path, token_types: bool = True) -> None:
        """See `save`."""
        self.save(directory)
