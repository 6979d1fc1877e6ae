"""What stands around a text, or between two, where a model reads them whole."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxft.errors import DataError


@dataclasses.dataclass(frozen=True)
class TextLayout:
    """A text or a pair of texts as a row of ids.

    Attributes:
      before: ids before the text.
      after: ids after it, or after the second.
      between: ids between two texts.
      second_type: token type of the second text and what follows it.
      longest: most tokens of a row, those around the texts included.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]
    second_type: int
    longest: int

    def row(
        self, where: str, first: np.ndarray, second: np.ndarray | None = None, truncate: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and token types, int32 `(tokens,)`.

        Args:
          where: what the text is called in messages.
          first: int32 `(tokens,)`.
          second: likewise, of a pair.
          truncate: cuts what is too long at its end, of a pair the longer text.

        Raises:
          DataError: it is empty, or longer than the model reads.
        """
        around = len(self.before) + len(self.after) + (0 if second is None else len(self.between))
        room, found = self.longest - around, len(first) + (0 if second is None else len(second))
        if not len(first) or (second is not None and not len(second)):
            raise DataError(f"{where} is empty; give it some text")
        if found > room and not truncate:
            raise DataError(
                f"{where} has {found} tokens, the model reads {room} beside those around a text; shorten it, or have "
                "it truncated"
            )
        one, two = _cut(first, second, room)
        head = [*self.before, *one]
        tail = list(self.after) if two is None else [*two, *self.after]
        ids = head + tail if two is None else [*head, *self.between, *tail]
        types = np.zeros(len(ids), np.int32)
        if two is not None:
            types[-len(tail) :] = self.second_type
        return np.asarray(ids, np.int32), types


def _cut(first: np.ndarray, second: np.ndarray | None, room: int) -> tuple[np.ndarray, np.ndarray | None]:
    if second is None:
        return first[:room], None
    while len(first) + len(second) > room:
        # As transformers' `longest_first`.
        if len(first) > len(second):
            first = first[:-1]
        else:
            second = second[:-1]
    return first, second
