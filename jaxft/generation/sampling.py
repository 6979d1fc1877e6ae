"""Pure functions on next-token logits, float32 `(batch, vocab)`: which tokens are drawn from, and drawing.

A token that is ruled out has the logit -inf. Numbers may be traced, so that another temperature compiles nothing anew.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

RULED_OUT = -jnp.inf


def keep_top_k(logits: jax.Array, k: int) -> jax.Array:
    """Rules out all but the `k` likeliest tokens, and those as likely as the last of these."""
    if k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < least, RULED_OUT, logits)


def keep_top_p(logits: jax.Array, p: jax.Array | float) -> jax.Array:
    """Keeps the fewest likeliest tokens that have probability `p` together (nucleus, arXiv 1904.09751)."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    least = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, RULED_OUT, logits)


def keep_min_p(logits: jax.Array, p: jax.Array | float) -> jax.Array:
    """Keeps tokens with at least `p` times the probability of the likeliest (arXiv 2407.01082)."""
    return jnp.where(logits < logits.max(-1, keepdims=True) + jnp.log(p), RULED_OUT, logits)


def keep_typical(logits: jax.Array, p: jax.Array | float) -> jax.Array:
    """Keeps the tokens whose information is nearest to the entropy, of probability `p` together (arXiv 2202.00666)."""
    logs = jax.nn.log_softmax(logits, axis=-1)
    probabilities = jnp.exp(logs)
    entropy = -jnp.sum(jnp.where(probabilities > 0, probabilities * logs, 0.0), axis=-1, keepdims=True)
    distance = jnp.abs(-logs - entropy)
    ordered, mass = jax.lax.sort((distance, probabilities), num_keys=1)
    before = jnp.cumsum(mass, axis=-1) - mass
    most = jnp.max(jnp.where(before < p, ordered, -jnp.inf), axis=-1, keepdims=True)
    return jnp.where(distance > most, RULED_OUT, logits)


def penalize_repetition(logits: jax.Array, seen: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """Makes tokens that are `seen`, bool `(batch, vocab)`, less likely by a factor (CTRL, arXiv 1909.05858)."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_use(
    logits: jax.Array, counts: jax.Array, presence: jax.Array | float, frequency: jax.Array | float
) -> jax.Array:
    """Takes `presence` from tokens that were written, `frequency` for each time; `counts` int32 `(batch, vocab)`."""
    return logits - presence * (counts > 0) - frequency * counts


def count_tokens(token_ids: jax.Array, counted: jax.Array, vocab: int) -> jax.Array:
    """How often each token occurs, int32 `(batch, vocab)`, in `token_ids` `(batch, length)` where `counted`."""
    zeros = jnp.zeros((token_ids.shape[0], vocab), jnp.int32)
    return jax.vmap(lambda row, ids, ones: row.at[ids].add(ones))(zeros, token_ids, counted.astype(jnp.int32))


def forbid_repeated_ngrams(logits: jax.Array, token_ids: jax.Array, lengths: jax.Array, n: int) -> jax.Array:
    """Rules out tokens that would make a sequence of `n` tokens occur twice (Paulus et al. 2017, arXiv 1705.04304).

    Args:
      logits: float32 `(batch, vocab)`.
      token_ids: int32 `(batch, length)`: prompts and what was written after them, padded.
      lengths: int32 `(batch,)`: without padding.
      n: at least 1.
    """
    width = token_ids.shape[1]
    starts = jnp.arange(width, dtype=jnp.int32)
    same = starts[None, :] + n - 1 < lengths[:, None]
    for i in range(n - 1):
        last = jnp.take_along_axis(token_ids, jnp.maximum(lengths[:, None] - (n - 1) + i, 0), axis=1)
        same &= jnp.roll(token_ids, -i, axis=1) == last
    same &= lengths[:, None] >= n
    following = jnp.roll(token_ids, -(n - 1), axis=1)
    return jnp.where(count_tokens(following, same, logits.shape[-1]) > 0, RULED_OUT, logits)


def only(logits: jax.Array, token_id: jax.Array, where: jax.Array) -> jax.Array:
    """Rules out all tokens but one, with the log-probability 0, in rows `where`, bool `(batch,)`.

    Args:
      logits: float32 `(batch, vocab)`.
      token_id: int32, or int32 `(batch,)`.
      where: bool `(batch,)`.
    """
    chosen = jnp.arange(logits.shape[-1]) == jnp.reshape(token_id, (-1, 1))
    return jnp.where(where[:, None], jnp.where(chosen, 0.0, RULED_OUT), logits)


def draw(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """A token of each row, int32 `(batch,)`, with a random key for each `(batch,)`."""
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
