"""What one row has written, read on the host while the device goes on: text, stop texts, and what ended it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxft.data.tokenizers import Tokenizer

# What ends a text: an end token, a stop text, the length asked for or the model's context.
Ending = Literal["end", "stop", "length", "context"]

# What decoders put for bytes that are no character yet.
_INCOMPLETE = "�"


class Transcript:
    """The text of one row, which grows.

    Args:
      tokenizer: None where there are ids alone.
      end_ids: ids that end a text.
      stop: texts that end it.
      is_cut: whether it is the model's context that its length is limited by.

    Attributes:
      token_ids: int32 `(tokens,)`: all so far.
      finished_by: as in `Generated`, or None while it grows.
    """

    def __init__(self, tokenizer: Tokenizer | None, end_ids: Sequence[int], stop: Sequence[str], is_cut: bool):
        self._tokenizer, self._end_ids, self._stop, self._is_cut = tokenizer, frozenset(end_ids), stop, is_cut
        self.token_ids = np.zeros(0, np.int32)
        self.finished_by: Ending | None = None
        self._told = 0
        self._text = ""

    @property
    def text(self) -> str:
        """All of the text, up to a stop text."""
        return self._text

    def read(self, token_ids: np.ndarray, is_finished: bool) -> tuple[np.ndarray, str]:
        """Takes all tokens that the row has now, and returns the new ones and the new characters that are certain.

        Args:
          token_ids: int32 `(tokens,)`, those of earlier calls first.
          is_finished: whether the row ends here.
        """
        if self.finished_by is not None:
            return token_ids[:0], ""
        before = len(self.token_ids)
        self.token_ids = token_ids
        if is_finished:
            ended = len(token_ids) > 0 and int(token_ids[-1]) in self._end_ids
            self.finished_by = "end" if ended else "context" if self._is_cut else "length"
        self._text = self._decode(token_ids)
        if any(stop in self._text for stop in self._stop):
            self._cut(before)
        shown = self._text if self.finished_by else self._certain()
        new, self._told = shown[self._told :], max(self._told, len(shown))
        return self.token_ids[before:], new

    def _decode(self, token_ids: np.ndarray) -> str:
        if self._tokenizer is None:
            return ""
        spoken = token_ids[:-1] if self.finished_by == "end" else token_ids
        return self._tokenizer.decode(spoken)

    def _cut(self, before: int) -> None:
        """Ends where the first stop text is complete; `before` that many tokens there was none."""
        self.finished_by = "stop"
        for count in range(before + 1, len(self.token_ids) + 1):
            text = self._decode(self.token_ids[:count])
            places = [text.find(stop) for stop in self._stop if stop in text]
            if places:
                self.token_ids, self._text = self.token_ids[:count], text[: min(places)]
                return

    def _certain(self) -> str:
        """The text without an incomplete character, and without what may become a stop text."""
        text = self._text.rstrip(_INCOMPLETE)
        longest = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - longest]
