"""Contrastive search: likely tokens that are unlike what is already there (Su et al. 2022, arXiv 2202.06417)."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.generation.cache import append
from jaxft.generation.controls import Controls
from jaxft.generation.decoder import Decoder, Prompts
from jaxft.generation.layout import LaidOutParameters
from jaxft.generation.loop import Decoding, begin_written


class Contrasting(flax.struct.PyTreeNode):
    """The state of a loop.

    Attributes:
      decoding: as of other loops, but that its cache holds the newest token too.
      logits: float32 `(batch, vocab)`: after the newest token.
      hidden: float32 `(batch, width, embed)`: last hidden states of all tokens, of length 1.
    """

    decoding: Decoding
    logits: jax.Array
    hidden: jax.Array


@functools.partial(jax.jit, static_argnames=("decoder", "slots"))
def begin_contrasting(
    decoder: Decoder, parameters: LaidOutParameters, prompts: Prompts, limits: jax.Array, keys: jax.Array, *, slots: int
) -> Contrasting:
    """Reads prompts; see `jaxft.generation.loop.begin`. No token is written yet."""
    step, cache = decoder.start(parameters, prompts, slots)
    written = begin_written(prompts, limits, slots)
    none = jnp.zeros(written.token_ids.shape, jnp.float32)
    decoding = Decoding(cache, written, written.lengths >= written.limits, none, keys, jnp.int32(0))
    hidden = jnp.pad(_unit(step.hidden), ((0, 0), (0, slots - step.hidden.shape[1]), (0, 0)))
    return Contrasting(decoding, step.logits[:, 0], hidden)


@functools.partial(jax.jit, static_argnames="decoder", donate_argnames="state")
def go_on_contrasting(
    decoder: Decoder,
    parameters: LaidOutParameters,
    state: Contrasting,
    controls: Controls,
    alpha: jax.Array,
    until: jax.Array,
) -> Contrasting:
    """Writes on until every row is finished or has written `until` tokens; `controls.top_k` tokens are compared."""

    def unfinished(state: Contrasting) -> jax.Array:
        return (state.decoding.steps < until) & ~state.decoding.finished.all()

    def one_token(state: Contrasting) -> Contrasting:
        decoding, written = state.decoding, state.decoding.written
        chances = jax.nn.softmax(controls.allowed(state.logits, written))
        chances, candidates = jax.lax.top_k(chances, controls.top_k)
        # The cache is the same for all candidates and is not copied.
        steps = jax.vmap(lambda token_ids: decoder.step(parameters, decoding.cache, token_ids[:, None]), 1)(candidates)
        hidden = _unit(steps.hidden[:, :, 0])
        likeness = jnp.einsum("kbe,bte->bkt", hidden, state.hidden)
        there = jnp.arange(state.hidden.shape[1]) < written.lengths[:, None]
        worst = jnp.max(jnp.where(there[:, None], likeness, -1.0), axis=-1)
        # A candidate that is ruled out is worse than any other.
        score = jnp.where(chances > 0, (1 - alpha) * chances - alpha * worst, -2.0)
        best = jnp.argmax(score, axis=1)
        rows = jnp.arange(best.shape[0])
        kept = jax.tree.map(lambda x: jnp.moveaxis(x[best, :, rows], 0, 1), steps.kept)
        running = ~decoding.finished
        chosen = decoding.take(candidates[rows, best], state.logits, controls)
        place = (jnp.arange(state.hidden.shape[1]) == written.lengths[:, None]) & running[:, None]
        return Contrasting(
            chosen.replace(cache=append(decoding.cache, kept, running.astype(jnp.int32))),
            steps.logits[best, rows, 0],
            jnp.where(place[..., None], hidden[best, rows][:, None], state.hidden),
        )

    return jax.lax.while_loop(unfinished, one_token, state)


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
