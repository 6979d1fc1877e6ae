"""Changed copies of the examples of small tasks, other ones in every epoch.

EDA, Wei and Zou 2019, arXiv 1901.11196.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxft.data.store import TOKENS, Record
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import InvalidField


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """How the words of training examples are changed; each is a share of the words.

    Attributes:
      delete: words that are left out.
      swap: words that change places with another one.
      insert: random words of the example that are repeated at a random place.
      mask: words whose tokens become the mask token, or else the unknown one (token dropout).
      share: of the examples that are changed at all.
    """

    delete: float = 0.0
    swap: float = 0.0
    insert: float = 0.0
    mask: float = 0.0
    share: float = 0.5

    def __post_init__(self):
        for field in ("delete", "swap", "insert", "mask"):
            if not 0 <= getattr(self, field) < 1:
                raise InvalidField(field, f"must be in [0, 1), found {getattr(self, field)}")
        if not 0 < self.share <= 1:
            raise InvalidField("share", f"must be more than 0 and at most 1, found {self.share}")
        if not any((self.delete, self.swap, self.insert, self.mask)):
            raise InvalidField("delete", "one of delete, swap, insert and mask must be more than 0")


class Augmenter:
    """Changes the tokens of records; a pure function of the record and a random key."""

    def __init__(self, config: AugmentationConfig, tokenizer: Tokenizer):
        self._config = config
        self._continues = tokenizer.is_continuation()
        known = (tokenizer.mask_id, tokenizer.unknown_id, tokenizer.pad_id)
        self._mask_id = next(number for number in known if number is not None)

    def __call__(self, longest: int, record: Record, key: np.random.Generator) -> Record:
        """The record with other tokens, never none and at most `longest`."""
        if key.random() >= self._config.share:
            return record
        tokens = record[TOKENS]
        starts = np.flatnonzero(~self._continues[tokens][1:]) + 1
        words = self._inserted(self._swapped(self._kept(np.split(tokens, starts), key), key), key)
        words = [
            np.full_like(word, self._mask_id) if masked else word
            for word, masked in zip(words, key.random(len(words)) < self._config.mask, strict=True)
        ]
        return {**record, TOKENS: np.concatenate(words)[:longest].astype(np.int32)}

    def _kept(self, words: list[np.ndarray], key: np.random.Generator) -> list[np.ndarray]:
        kept = key.random(len(words)) >= self._config.delete
        kept[key.integers(len(words))] = True
        return [word for word, keep in zip(words, kept, strict=True) if keep]

    def _swapped(self, words: list[np.ndarray], key: np.random.Generator) -> list[np.ndarray]:
        words = list(words)
        for place in np.flatnonzero(key.random(len(words)) < self._config.swap):
            other = int(key.integers(len(words)))
            words[place], words[other] = words[other], words[place]
        return words

    def _inserted(self, words: list[np.ndarray], key: np.random.Generator) -> list[np.ndarray]:
        out = list(words)
        for _ in range(int((key.random(len(words)) < self._config.insert).sum())):
            out.insert(int(key.integers(len(out) + 1)), words[int(key.integers(len(words)))])
        return out
