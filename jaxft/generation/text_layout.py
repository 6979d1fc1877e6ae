"""What stands around a text, or between two, where a model reads them whole."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxft.data.tokenizers import TextTemplate
from jaxft.data.tokenizers.template import cut_pair
from jaxft.errors import DataError


@dataclasses.dataclass(frozen=True)
class TextLayout:
    """A text or a pair of texts as a row of ids.

    Attributes:
      template: what stands around texts.
      longest: most tokens of a row, those around the texts included.
      cut: tokens of a row to which longer texts are cut where that is asked for, those of the rows that the model was
        trained on; `longest` where None.
    """

    template: TextTemplate
    longest: int
    cut: int | None = None

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
        around = self.template.overhead if second is None else self.template.pair_overhead
        room, found = self.longest - around, len(first) + (0 if second is None else len(second))
        if not len(first) or (second is not None and not len(second)):
            raise DataError(f"{where} is empty; give it some text")
        if found > room and not truncate:
            raise DataError(
                f"{where} has {found} tokens, the model reads {room} beside those around a text; shorten it, or have "
                "it truncated"
            )
        if truncate:
            room = min(self.longest, self.cut or self.longest) - around
        if second is None:
            return self.template.row(first[:room])
        return self.template.row(*cut_pair(first, second, room))
