"""What stands around a text, and around and between two: the one place that puts special tokens there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fixed:
    """Ids that a template puts beside texts.

    Attributes:
      ids: one after the other.
      types: token type of each.
    """

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()


@dataclass(frozen=True)
class TextTemplate:
    """A text or a pair of texts with the special tokens of a tokenizer.

    Attributes:
      before: what stands before a text alone.
      after: what stands after it.
      pair: what stands before, between and after two texts.
      second_type: token type of the second text; that of the first is 0.
    """

    before: Fixed
    after: Fixed
    pair: tuple[Fixed, Fixed, Fixed]
    second_type: int = 1

    @property
    def overhead(self) -> int:
        """Tokens beside a text alone."""
        return len(self.before.ids) + len(self.after.ids)

    @property
    def pair_overhead(self) -> int:
        """Tokens beside two texts."""
        return sum(len(fixed.ids) for fixed in self.pair)

    def wrap(self, tokens: np.ndarray) -> np.ndarray:
        """A text alone with what stands around it, int32 `(length,)`."""
        return _joined([self.before.ids, tokens, self.after.ids])

    def row(self, first: np.ndarray, second: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A text or a pair: ids and token types, int32 `(length,)`.

        Args:
          first: int32 tokens.
          second: likewise, of a pair.
        """
        if second is None:
            return self.wrap(first), _joined([self.before.types, np.zeros(len(first)), self.after.types])
        before, between, after = self.pair
        ids = _joined([before.ids, first, between.ids, second, after.ids])
        second_types = np.full(len(second), self.second_type)
        return ids, _joined([before.types, np.zeros(len(first)), between.types, second_types, after.types])


def own_template(start_id: int | None, separator_id: int) -> TextTemplate:
    """The template of tokenizers that are made here: BERT's, without a start where there is no such token."""
    start = Fixed() if start_id is None else Fixed((start_id,), (0,))
    end, last = Fixed((separator_id,), (0,)), Fixed((separator_id,), (1,))
    return TextTemplate(start, end, (start, end, last))


def template_of_probe(
    single: tuple[Sequence[int], Sequence[int], Sequence[int | None]],
    pair: tuple[Sequence[int], Sequence[int], Sequence[int | None]],
) -> TextTemplate:
    """The template by which a tokenizer laid out a text, and a pair.

    Args:
      single: ids, token types, and which text each is of (0, or None for none).
      pair: likewise, with 1 for those of the second text.
    """
    before, after = _fixed(single, [0])
    opening, between, closing = _fixed(pair, [0, 1])
    types = [kind for kind, text in zip(pair[1], pair[2], strict=True) if text == 1]
    return TextTemplate(before, after, (opening, between, closing), types[0] if types else 0)


def _fixed(laid_out: tuple[Sequence[int], Sequence[int], Sequence[int | None]], texts: Sequence[int]) -> list[Fixed]:
    """What stands before, between and after texts."""
    ids, types, owners = laid_out
    found, begin = [], 0
    for text in texts:
        places = [place for place, owner in enumerate(owners) if owner == text]
        found.append(Fixed(tuple(ids[begin : places[0]]), tuple(types[begin : places[0]])))
        begin = places[-1] + 1
    return [*found, Fixed(tuple(ids[begin:]), tuple(types[begin:]))]


def cut_pair(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the longer of two texts, then both alike, until they fit into `room` tokens together.

    As `longest_first` of the tokenizers library: where both are cut and the room is odd, the longer one keeps one more.
    """
    if len(first) + len(second) <= room:
        return first, second
    swapped = len(first) > len(second)
    short, long = (second, first) if swapped else (first, second)
    if len(short) <= room // 2:
        long = long[: room - len(short)]
    else:
        short, long = short[: room // 2], long[: room - room // 2]
    return (long, short) if swapped else (short, long)


def _joined(pieces: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
