"""Copies of texts in which a masked language model has written some of the words (Wu et al. 2018, arXiv 1812.06705)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from jaxft.data.batches import example_generator
from jaxft.data.sources import Row
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import DataError, InvalidField

# Letters and digits with their apostrophes; scripts without spaces between words character by character.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ceaf"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+(?:['’][^\W_{_ALONE}]+)*")
# Copies are the same in every run of a recipe, whatever its seed.
_SEED = 2**31 - 2
_ROWS = 32
_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class FillConfig:
    """Copies of the training texts in which a masked language model fills in some of the words.

    Attributes:
      model: a directory in Hugging Face layout, or a run; it may have another tokenizer than the run that trains.
      rate: share of the words that are masked and filled in, at least one of each text.
      variants: copies of each text; an example is in turn itself and each of its copies, one in each epoch.
    """

    model: str
    rate: float = 0.15
    variants: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 0.5:
            raise InvalidField("rate", f"must be more than 0 and at most 0.5, found {self.rate}")
        if not 1 <= self.variants <= 100:
            raise InvalidField("variants", f"must be from 1 to 100, found {self.variants}")


class Predict(Protocol):
    """A masked language model."""

    def __call__(self, token_ids: np.ndarray, segment_ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Float32 logits `(rows, places, vocab)` of what stands in these places.

        Args:
          token_ids: int32 `(rows, length)`.
          segment_ids: int32, 0 for padding.
          places: int32 `(rows, places)`.
        """


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy that is still to be filled.

    Attributes:
      row: as it was read.
      index: number of the row among those that can be used.
      variant: number of the copy.
    """

    row: Row
    index: int
    variant: int


def copies(
    rows: Iterable[Row | DataError], usable: Callable[[Row], object], variants: int
) -> Iterator[Copy | DataError]:
    """The copies of each row, one after the other.

    Args:
      rows: of a source, with errors in place of those that can't be read.
      usable: raises DataError for a row that can't be used.
      variants: copies of each.
    """
    index = 0
    for row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            usable(row)
        except DataError as error:
            yield error
            continue
        yield from (Copy(row, index, variant) for variant in range(variants))
        index += 1


@dataclasses.dataclass(frozen=True)
class _Window:
    """A run of tokens with masks in it, and the words that stood there.

    Attributes:
      ids: int32, special ones among them.
      places: of the masks.
      words: first character and one past the last of each masked word in its text.
      draws: a uniform number for each.
    """

    text: int
    ids: np.ndarray
    places: list[int]
    words: list[tuple[int, int]]
    draws: np.ndarray


class Filler:
    """Fills words of texts in; a pure function of the text, its number and the number of the copy.

    Args:
      config: see there.
      tokenizer: of the masked language model, which has a mask.
      longest: tokens of a row of the model, special ones included.
      predict: the model.
    """

    def __init__(self, config: FillConfig, tokenizer: Tokenizer, longest: int, predict: Predict):
        self._config, self._tokenizer, self._longest, self._predict = config, tokenizer, longest, predict
        self._surfaces = [tokenizer.decode([number]).strip() for number in range(tokenizer.vocab_size)]
        whole = ~tokenizer.is_continuation()
        whole[sorted(tokenizer.special_ids)] = False
        self._allowed = whole & np.array([_WORD.fullmatch(surface) is not None for surface in self._surfaces])

    def fill_rows(self, batch: list[Copy | DataError], column: str) -> list[Row | DataError]:
        """Rows with filled texts in a column, in place of copies."""
        taken = [one for one in batch if isinstance(one, Copy)]
        numbers = [(copy.index, copy.variant) for copy in taken]
        texts = iter(self.fill([copy.row.values[column] for copy in taken], numbers))
        return [
            Row({**one.row.values, column: next(texts)}, one.row.location) if isinstance(one, Copy) else one
            for one in batch
        ]

    def fill(self, texts: Sequence[str], numbers: Sequence[tuple[int, int]]) -> list[str]:
        """Texts that differ from these only where a word was masked.

        Args:
          texts: any.
          numbers: of each text and of its copy, by which words and fillings are drawn.
        """
        encoded = self._tokenizer.encode_with_spans(list(texts))
        windows: list[_Window] = []
        for number, (text, (ids, spans), (index, variant)) in enumerate(zip(texts, encoded, numbers, strict=True)):
            windows += self._windows(number, text, ids, spans, example_generator(_SEED, variant, index))
        found: list[list[tuple[int, int, str]]] = [[] for _ in texts]
        by_length: dict[int, list[_Window]] = {}
        for window in windows:
            by_length.setdefault(self._padded(len(window.ids)), []).append(window)
        for length, own in by_length.items():
            for start in range(0, len(own), _ROWS):
                rows = own[start : start + _ROWS]
                for window, filled in zip(rows, self._sampled(rows, length), strict=True):
                    found[window.text] += [(*w, self._surfaces[i]) for w, i in zip(window.words, filled, strict=True)]
        return [_spliced(text, own) for text, own in zip(texts, found, strict=True)]

    def _padded(self, tokens: int) -> int:
        """One of few lengths, as every length is compiled by itself."""
        return min(self._longest, max(_SHORTEST, 1 << (tokens - 1).bit_length()))

    def _budget(self, length: int) -> int:
        return math.ceil(self._config.rate * length) + 1

    def _windows(
        self, number: int, text: str, ids: np.ndarray, spans: np.ndarray, key: np.random.Generator
    ) -> Iterator[_Window]:
        """Masks words of a text, each by one mask, window by window where it is too long for the model."""
        around = self._tokenizer.template.overhead
        count = -(-len(ids) // (self._longest - around))
        edges = [len(ids) * i // max(count, 1) for i in range(count + 1)]
        placed = ((found.span(), _tokens_of(spans, *found.span())) for found in _WORD.finditer(text))
        words = [(span, *tokens) for span, tokens in placed if tokens is not None]
        for first, last in itertools.pairwise(edges):
            inside = [word for word in words if first <= word[1] and word[2] <= last]
            wanted = max(1, round(self._config.rate * len(inside)))
            chosen = sorted(key.permutation(len(inside))[:wanted].tolist())
            if chosen:
                draws = key.random(len(chosen))
                yield self._masked(number, ids[first:last], first, [inside[i] for i in chosen], draws)

    def _masked(self, number: int, ids: np.ndarray, first: int, words: list, draws: np.ndarray) -> _Window:
        tokenizer, done = self._tokenizer, 0
        places: list[int] = []
        kept: list[int] = []
        assert tokenizer.mask_id is not None  # a masked language model's
        before = len(tokenizer.template.before.ids)
        for _, start, end in words:
            kept += ids[done : start - first].tolist()
            places.append(before + len(kept))
            kept.append(tokenizer.mask_id)
            done = end - first
        kept += ids[done:].tolist()
        whole = tokenizer.template.wrap(np.array(kept, np.int32))
        return _Window(number, whole, places, [span for span, _, _ in words], draws)

    def _sampled(self, windows: list[_Window], length: int) -> list[list[int]]:
        """A token for each mask, drawn from what the model expects among the tokens that are words."""
        token_ids = np.full((_ROWS, length), self._tokenizer.pad_id, np.int32)
        segment_ids = np.zeros((_ROWS, length), np.int32)
        places = np.zeros((_ROWS, self._budget(length)), np.int32)
        for row, window in enumerate(windows):
            token_ids[row, : len(window.ids)], segment_ids[row, : len(window.ids)] = window.ids, 1
            places[row, : len(window.places)] = window.places
        segment_ids[len(windows) :, 0] = 1  # a row of padding alone would attend to nothing
        logits = self._predict(token_ids, segment_ids, places)[..., : len(self._allowed)]
        allowed = np.flatnonzero(self._allowed)
        return [
            [int(allowed[_drawn(scores[allowed], draw)]) for scores, draw in zip(row, window.draws, strict=False)]
            for row, window in zip(logits, windows, strict=False)
        ]


def _tokens_of(spans: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First token of a word and one past its last; None where a token stands for more than parts of the word."""
    inside = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start))
    if not len(inside) or spans[inside, 0].min() < start or spans[inside, 1].max() > end:
        return None
    return int(inside[0]), int(inside[-1]) + 1


def _drawn(scores: np.ndarray, draw: float) -> int:
    """Where a uniform number falls among probabilities."""
    weights = np.cumsum(np.exp(scores.astype(np.float64) - scores.max()))
    return min(int(np.searchsorted(weights, draw * weights[-1], side="right")), len(scores) - 1)


def _spliced(text: str, found: Iterable[tuple[int, int, str]]) -> str:
    for start, end, word in sorted(found, reverse=True):
        text = text[:start] + word + text[end:]
    return text
