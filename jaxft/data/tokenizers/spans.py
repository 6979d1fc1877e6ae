"""Which characters of a text each token stands for."""

from __future__ import annotations

import unicodedata

import numpy as np

# Accents that combine with the character before them, and invisible ones such as joiners of emoji.
_ATTACHED = ("Mn", "Cf")


def tidy_spans(text: str, spans: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Spans without the whitespace around them, and with something for every token that writes a character.

    Accents and joiners that a normalization drops belong to the token before them. Where several tokens write one
    character (the bytes of a character that the vocabulary lacks, the three characters that NFKC makes of "½"),
    tokenizers give it to the last of them and nothing to the others; here each has it.

    Args:
      text: what was tokenized.
      spans: int `(length, 2)`, first character and one past the last of each token, as the tokenizer gives them.
      written: bool `(length,)`, which tokens must stand for something, as they are no whitespace.

    Returns:
      int32 `(length, 2)`; both numbers are the same for a token of whitespace alone.
    """
    if not len(spans):
        return np.zeros((0, 2), np.int32)
    starts, ends = np.asarray(spans, np.int64).T
    places = np.arange(len(text) + 1)
    space = np.array([*map(str.isspace, text), False])
    following = np.minimum.accumulate(np.where(space, len(text), places)[::-1])[::-1]
    starts = np.minimum(following[starts], ends)
    # One past the last character before each place that is no whitespace.
    last = np.maximum.accumulate(np.concatenate([[0], np.where(space[:-1], 0, places[1:])]))
    ends = np.maximum(last[ends], starts)
    for i in range(len(starts) - 2, -1, -1):
        if written[i] and starts[i] == ends[i] and starts[i + 1] <= ends[i] < ends[i + 1]:
            starts[i], ends[i] = starts[i + 1], ends[i + 1]
    if not text.isascii():
        ends = _with_attached(text, starts, ends)
    return np.stack([starts, ends], 1).astype(np.int32)


def _with_attached(text: str, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Ends moved over attached characters that stand before the next token."""
    attached = np.array([unicodedata.category(character) in _ATTACHED for character in text] + [False])
    places = np.arange(len(attached))
    after = np.minimum.accumulate(np.where(attached, len(text), places)[::-1])[::-1]
    next_starts = np.append(starts[1:], len(text))
    return np.where(ends > starts, np.maximum(ends, np.minimum(after[ends], next_starts)), ends)
