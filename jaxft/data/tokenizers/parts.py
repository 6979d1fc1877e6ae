"""Texts that a template wrote around other texts: its special tokens are special, all others are only text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import tokenizers

from jaxft.data.tokenizers.protocol import Part


@dataclass
class _Stretch:
    """Text between two special tokens.

    Attributes:
      text: of one or more parts.
      learned: for each character whether it is learned.
      first: whether it begins the whole text.
    """

    first: bool
    text: str = ""
    learned: list[bool] = field(default_factory=list)

    def add(self, text: str, learned: bool) -> None:
        """Lets a text follow."""
        self.text += text
        self.learned += [learned] * len(text)

    def strip_left(self) -> None:
        """Drops whitespace from the beginning."""
        kept = self.text.lstrip()
        self.learned = self.learned[len(self.text) - len(kept) :]
        self.text = kept

    def strip_right(self) -> None:
        """Drops whitespace from the end."""
        self.text = self.text.rstrip()
        del self.learned[len(self.text) :]


@dataclass(frozen=True)
class _Special:
    """A special token, by its id."""

    id: int
    learned: bool


class PartsEncoder:
    """Encodes texts given in parts; see `jaxft.data.tokenizers.protocol.Tokenizer.encode_parts`.

    Args:
      tokenizer: is copied; its added tokens say which strings are special.
      without_controls: makes control ids unknown where text spells one that the vocabulary itself holds.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, without_controls: Callable[[np.ndarray], np.ndarray] = np.asarray
    ):
        self._first, self._later = _as_text(tokenizer, "first"), _as_text(tokenizer, "never")
        added = tokenizer.get_added_tokens_decoder().items()
        self._special = {token.content: (number, token) for number, token in added if token.special and token.content}
        # Of several that begin at one place the longest counts.
        longest = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest))) if longest else None
        self._without_controls = without_controls

    def __call__(self, texts: Sequence[Sequence[Part]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids int32 (length,) and whether each is learned, bool (length,)."""
        split = [self._split(parts) for parts in texts]
        stretches = [piece for pieces in split for piece in pieces if isinstance(piece, _Stretch)]
        encoded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for first, tokenizer in ((True, self._first), (False, self._later)):
            own = [stretch for stretch in stretches if stretch.first == first]
            made = tokenizer.encode_batch([stretch.text for stretch in own], add_special_tokens=False)
            for stretch, one in zip(own, made, strict=True):
                ids = self._without_controls(np.asarray(one.ids, np.int32))
                encoded[id(stretch)] = ids, _learned(one.offsets, stretch.learned)
        return [_joined([_of_special(p) if isinstance(p, _Special) else encoded[id(p)] for p in s]) for s in split]

    def _split(self, parts: Sequence[Part]) -> list[_Stretch | _Special]:
        """Stretches of text and the special tokens between them, which may swallow whitespace beside them."""
        stretch = _Stretch(first=True)
        pieces: list[_Stretch | _Special] = [stretch]
        swallows = False
        for text, special, learned in self._pieces(parts):
            if special is None:
                stretch.add(text, learned)
                if swallows:
                    stretch.strip_left()
                    swallows = not stretch.text
                continue
            number, token = special
            if token.lstrip:
                stretch.strip_right()
            swallows = token.rstrip
            stretch = _Stretch(first=False)
            pieces += [_Special(number, learned), stretch]
        return [piece for piece in pieces if isinstance(piece, _Special) or piece.text]

    def _pieces(self, parts: Sequence[Part]) -> Iterator[tuple[str, tuple[int, tokenizers.AddedToken] | None, bool]]:
        for part in parts:
            done = 0
            for found in self._pattern.finditer(part.text) if part.template and self._pattern else ():
                yield part.text[done : found.start()], None, part.learned
                yield found[0], self._special[found[0]], part.learned
                done = found.end()
            yield part.text[done:], None, part.learned


def _as_text(tokenizer: tokenizers.Tokenizer, prefix: str) -> tokenizers.Tokenizer:
    """A copy that finds no special tokens, and gives the place of every token in the text, spaces included.

    Args:
      tokenizer: may put a space before the beginning of a text.
      prefix: `never` for what does not begin a text, else `first`.
    """
    state = json.loads(tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": None}
    if prefix == "never":
        _without_prefix(state["pre_tokenizer"])
    copy = tokenizers.Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy


def _without_prefix(state: dict | None) -> None:
    """Changes pre-tokenizers that put a space before a text's first word alone to such that put none."""
    if state is None:
        return
    if state.get("prepend_scheme") == "first":
        state["prepend_scheme"] = "never"
    for part in state.get("pretokenizers", ()):
        _without_prefix(part)


def _learned(offsets: Sequence[tuple[int, int]], characters: Sequence[bool]) -> np.ndarray:
    """Which tokens hold a learned character, bool; one that holds none at all goes with the one before it."""
    before = np.concatenate([[0], np.cumsum(characters)])
    starts, ends = np.asarray(offsets, np.int64).reshape(-1, 2).T
    learned = before[ends] > before[starts]
    for place in np.flatnonzero(starts == ends):
        learned[place] = place > 0 and learned[place - 1]
    return learned


def _of_special(special: _Special) -> tuple[np.ndarray, np.ndarray]:
    return np.array([special.id], np.int32), np.array([special.learned])


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not pieces:
        return np.zeros(0, np.int32), np.zeros(0, bool)
    ids, learned = zip(*pieces, strict=True)
    return np.concatenate(ids), np.concatenate(learned)
