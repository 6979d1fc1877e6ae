"""Functions of the host that say which tokens may come next, called from compiled loops."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.errors import RecipeError


class AllowedTokens(Protocol):
    """What may come next."""

    def __call__(self, prompt: int, token_ids: np.ndarray) -> Sequence[int]:
        """Ids of which the next token is one, at least one; a pure function of the arguments.

        Args:
          prompt: number of the prompt, from 0.
          token_ids: int32 `(tokens,)`: the text so far, without the prompt.
        """


@dataclasses.dataclass
class _Asked:
    """A function, and what it raised: errors do not pass through compiled programs as they are."""

    function: AllowedTokens
    error: Exception | None = None

    def mask(self, prompt: int, text: np.ndarray, vocab: int) -> np.ndarray:
        """Tokens that may come next, bool `(vocab,)`; all after an error."""
        if self.error is None:
            try:
                return _mask(self.function(prompt, text), vocab)
            except Exception as error:  # whatever the user's own code raises
                self.error = error
        return np.ones(vocab, bool)


# Compiled programs outlive functions and are not compiled anew for another, so they know them by number.
_functions: dict[int, _Asked] = {}
_numbers = itertools.count()


@contextlib.contextmanager
def callable_by_number(function: AllowedTokens | None) -> Iterator[int | None]:
    """The number that `ask` knows a function by, while it is used; None for none. Raises what the function raised."""
    if function is None:
        yield None
        return
    number = next(_numbers)
    asked = _functions[number] = _Asked(function)
    try:
        yield number
    finally:
        del _functions[number]
    if asked.error is not None:
        raise asked.error


def ask(
    function: jax.Array,
    prompts: jax.Array,
    token_ids: jax.Array,
    starts: jax.Array,
    counts: jax.Array,
    going: jax.Array,
    vocab: int,
) -> jax.Array:
    """Which tokens may come next in each row, bool `(batch, vocab)`; all where nothing is to come.

    Args:
      function: int32: its number.
      prompts: int32 `(batch,)`: numbers of prompts, below 0 for rows that fill the batch.
      token_ids: int32 `(batch, width)`: prompts and texts.
      starts: int32 `(batch,)`: lengths of the prompts.
      counts: int32 `(batch,)`: lengths of the texts.
      going: bool `(batch,)`: rows that go on.
      vocab: number of tokens.
    """

    def on_host(
        function: jax.Array,
        prompts: jax.Array,
        token_ids: jax.Array,
        starts: jax.Array,
        counts: jax.Array,
        going: jax.Array,
    ) -> np.ndarray:
        mask = np.ones((len(prompts), vocab), bool)
        asked = _functions[int(function)]
        for row in np.flatnonzero(np.asarray(going) & (np.asarray(prompts) >= 0)):
            begin = int(starts[row])
            text = np.asarray(token_ids[row, begin : begin + int(counts[row])])
            mask[row] = asked.mask(int(prompts[row]), text, vocab)
        return mask

    shape = jax.ShapeDtypeStruct((prompts.shape[0], vocab), jnp.bool_)
    return jax.pure_callback(on_host, shape, function, prompts, token_ids, starts, counts, going)


def _mask(allowed: Sequence[int], vocab: int) -> np.ndarray:
    ids = np.asarray(list(allowed), np.int64)
    if not len(ids):
        raise RecipeError("allowed_tokens gave no token; it must allow at least one, such as the end token")
    if ids.min() < 0 or ids.max() >= vocab:
        raise RecipeError(f"allowed_tokens gave an id outside of the vocabulary of {vocab}")
    mask = np.zeros(vocab, bool)
    mask[ids] = True
    return mask
