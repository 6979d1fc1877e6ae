"""A constraint as compiled code follows it: states, and where each token leads from them."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


class Automaton(flax.struct.PyTreeNode):
    """A deterministic automaton over tokens. A text begins in state 0.

    Attributes:
      table: int32 `(states, classes)`: the state after a token of a class, -1 where none may come.
      classes: int32 `(vocab,)`: class of each token.
      remaining: int32 `(states,)`: fewest tokens to a state in which the text is complete; 0 in one.
    """

    table: jax.Array
    classes: jax.Array
    remaining: jax.Array

    def next(self, states: jax.Array, token_ids: jax.Array) -> jax.Array:
        """States after a token of each row, int32 `(batch,)`; one that ends the text leaves its row where it is."""
        following = self.table[states, self.classes[token_ids]]
        return jnp.where(following < 0, states, following)

    def allowed(self, states: jax.Array, left: jax.Array, is_end: jax.Array) -> jax.Array:
        """Tokens that may come next, bool `(batch, vocab)`.

        Args:
          states: int32 `(batch,)`.
          left: int32 `(batch,)`: so many tokens can still be written; one after which the text could no longer be
            completed may not come.
          is_end: bool `(vocab,)`: tokens that end a text, which they may where it is complete.
        """
        following = self.table[states]
        fits = (following >= 0) & (self.remaining[following] < left[:, None])
        return jnp.where(is_end, (self.remaining[states] == 0)[:, None], fits[:, self.classes])
