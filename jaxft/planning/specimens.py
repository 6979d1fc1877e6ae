"""Stands in for a vocabulary that is not here: a tokenizer of its size."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from jaxft.data.tokenizers import Part
from jaxft.data.tokenizers.template import own_template

_WORD = "word"
_SPECIAL = 5


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
    template = own_template(start_id, separator_id)
    is_generic = True
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
