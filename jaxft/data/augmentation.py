"""Changed copies of the examples of small tasks, other ones in every epoch.

Words are changed at random (EDA, Wei and Zou 2019, arXiv 1901.11196), or filled in by a masked language model
(`jaxft.data.filling`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxft.data.filling import FillConfig
from jaxft.data.store import TOKENS, Record, TokenStore
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import InvalidField


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """How the words of training examples are changed; each but the last two is a share of the words.

    Attributes:
      delete: words that are left out.
      swap: words that change places with another one.
      insert: random words of the example that are repeated at a random place.
      mask: words whose tokens become the mask token, or else the unknown one (token dropout).
      share: of the examples that are changed so.
      fill: copies in which a masked language model has written some of the words.
    """

    delete: float = 0.0
    swap: float = 0.0
    insert: float = 0.0
    mask: float = 0.0
    share: float = 0.5
    fill: FillConfig | None = None

    def __post_init__(self) -> None:
        for field in ("delete", "swap", "insert", "mask"):
            if not 0 <= getattr(self, field) < 1:
                raise InvalidField(field, f"must be in [0, 1), found {getattr(self, field)}")
        if not 0 < self.share <= 1:
            raise InvalidField("share", f"must be more than 0 and at most 1, found {self.share}")
        if not self.changes_words and self.fill is None:
            raise InvalidField("delete", "one of delete, swap, insert and mask must be more than 0, or give fill")

    @property
    def changes_words(self) -> bool:
        """Whether words are changed at random."""
        return any((self.delete, self.swap, self.insert, self.mask))


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


@dataclasses.dataclass(frozen=True)
class FilledCopies:
    """The filled copies of a store's texts, which take turns with the texts themselves.

    Attributes:
      store: with `variants` copies for each record of the other one, in their order.
      variants: copies of each text.
      longest: tokens that are kept of one.
    """

    store: TokenStore
    variants: int
    longest: int

    def __call__(self, records: list[Record], numbers: list[int], epochs: list[int]) -> list[Record]:
        """The records, or their copies, by their numbers in their store and the epochs in which they are read.

        In each epoch some examples are themselves and others are copies; after `variants + 1` epochs each was all.
        """
        turns = [(number + epoch) % (self.variants + 1) for number, epoch in zip(numbers, epochs, strict=True)]
        places = [place for place, turn in enumerate(turns) if turn]
        found = self.store.read([numbers[place] * self.variants + turns[place] - 1 for place in places])
        records = list(records)
        for place, copy in zip(places, found, strict=True):
            records[place] = {**records[place], TOKENS: copy[TOKENS][: self.longest]}
        return records
