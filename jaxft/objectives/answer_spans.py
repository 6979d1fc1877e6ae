"""The best spans of a text by scores of their first and their last token."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxft.kernels.shapes import Array


@dataclasses.dataclass(frozen=True)
class Span:
    """A span of tokens.

    Attributes:
      first: its first token.
      last: its last token.
      score: sum of the scores of both.
    """

    first: int
    last: int
    score: float


def best_spans(starts: Float[Array, " length"], ends: Float[Array, " length"], longest: int, count: int) -> list[Span]:
    """The spans with the largest sums, out of all that are possible.

    Args:
      starts: float `(length,)`, score of each token as the first one.
      ends: float `(length,)`, score of each token as the last one.
      longest: most tokens of a span.
      count: how many spans, at most.

    Returns:
      Spans, the best first; of equal ones the earlier and shorter.
    """
    if not len(starts):
        return []
    longest = min(longest, len(starts))
    padded = np.concatenate([ends, np.full(longest - 1, -np.inf)])
    # (first token, further tokens)
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    best = np.argsort(-scores, axis=None, kind="stable")[:count] if count > 1 else [int(scores.argmax())]
    firsts, further = np.unravel_index(np.asarray(best), scores.shape)
    return [
        Span(int(first), int(first + more), float(scores[first, more]))
        for first, more in zip(firsts, further, strict=True)
        if np.isfinite(scores[first, more])
    ]
