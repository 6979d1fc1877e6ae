"""Log-probabilities of tokens in the two forms that OpenAI's answers have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import RecipeError
from jaxft.generation.constraints.tokens import token_bytes

Likeliest = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Logged:
    """Tokens with their log-probabilities.

    Attributes:
      token_ids: in their order.
      logs: of each; None where it is not known, as of a first token.
      likeliest: of each place the ids of the likeliest tokens and their log-probabilities; None likewise.
    """

    token_ids: Sequence[int] = ()
    logs: Sequence[float | None] = ()
    likeliest: Sequence[Likeliest | None] = ()

    def then(self, other: Logged) -> Logged:
        """These and others after them."""
        return Logged(
            [*self.token_ids, *other.token_ids], [*self.logs, *other.logs], [*self.likeliest, *other.likeliest]
        )


NO_TOKENS = Logged()


def logged(token_ids: np.ndarray, logs: np.ndarray, likeliest: Likeliest | None) -> Logged:
    """Tokens `(tokens,)` as the device tells them; beam search keeps the sum of its logs alone."""
    places = [None] * len(token_ids) if likeliest is None else list(zip(*likeliest, strict=True))
    return Logged(token_ids.tolist(), [None if log != log else float(log) for log in logs], places)


class TokenWords:
    """What tokens write, for people and as bytes.

    Args:
      tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        try:
            self._bytes = token_bytes(tokenizer)
        except RecipeError:  # WordPiece's tokens do not say all that they write
            self._bytes = [None] * tokenizer.vocab_size

    def bytes_of(self, token_id: int) -> bytes:
        """What a token writes in UTF-8, perhaps a part of a character; of a special one its name."""
        known = self._bytes[token_id] if token_id < len(self._bytes) else b""
        return (self._tokenizer.tokens([token_id])[0] or "").encode() if known is None else known

    def text_of(self, token_id: int) -> str:
        """The same as text; bytes that are no character are spelled."""
        return self.bytes_of(token_id).decode("utf-8", "backslashreplace")

    def of_chat(self, found: Logged, count: int) -> dict[str, Any]:
        """As of conversations, with `count` of the likeliest tokens at each place."""

        def one(token_id: int, log: float | None) -> dict[str, Any]:
            return {"token": self.text_of(token_id), "logprob": log, "bytes": list(self.bytes_of(token_id))}

        return {
            "content": [
                {**one(token_id, log), "top_logprobs": [one(*best) for best in _best(places, count)]}
                for token_id, log, places in zip(found.token_ids, found.logs, found.likeliest, strict=True)
            ]
        }

    def of_completion(self, found: Logged, count: int, before: bytes = b"") -> dict[str, Any]:
        """As of completions: beside `count` of the likeliest tokens, the one that was written.

        Args:
          found: the tokens.
          count: 0 for none beside them.
          before: what other tokens have written before, from which offsets are counted.
        """
        offsets, written = [], before
        for token_id in found.token_ids:
            offsets.append(len(written.decode("utf-8", "ignore")))
            written += self.bytes_of(token_id)
        tops: list[dict[str, float | None] | None] = []
        for token_id, log, places in zip(found.token_ids, found.logs, found.likeliest, strict=True):
            best = {self.text_of(one): chance for one, chance in _best(places, count)}
            tops.append(None if log is None else {self.text_of(token_id): log, **best})
        return {
            "tokens": [self.text_of(token_id) for token_id in found.token_ids],
            "token_logprobs": list(found.logs),
            "top_logprobs": tops if count else None,
            "text_offset": offsets,
        }


def _best(places: Likeliest | None, count: int) -> list[tuple[int, float]]:
    if places is None:
        return []
    return [(int(one), float(log)) for one, log in zip(places[0][:count], places[1][:count], strict=True)]
