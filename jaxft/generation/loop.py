"""Writing one token after the other: the compiled loop of greedy decoding and sampling."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.generation.cache import Cache, take_rows
from jaxft.generation.controls import Controls, DecodedRows
from jaxft.generation.decoder import Decoder, Prompts
from jaxft.generation.layout import LaidOutParameters


class Likeliest(flax.struct.PyTreeNode):
    """The likeliest tokens at each place by the model itself, before any control.

    Attributes:
      token_ids: int32 `(batch, width, count)`, the likeliest first.
      log_probabilities: float32 `(batch, width, count)`.
    """

    token_ids: jax.Array
    log_probabilities: jax.Array

    @classmethod
    def of(cls, logs: jax.Array, count: int) -> Likeliest:
        """Those of log-probabilities `(..., vocab)`, whose places lie before."""
        best, token_ids = jax.lax.top_k(logs, min(count, logs.shape[-1]))
        return cls(token_ids, best)


class Decoding(flax.struct.PyTreeNode):
    """The state of a loop.

    Attributes:
      cache: of all tokens but the newest of each row.
      written: prompts and texts.
      finished: bool `(batch,)`: rows that write no more.
      log_probabilities: float32 `(batch, width)`: of each written token by the model itself, before any control.
      keys: random keys `(batch,)`.
      steps: int32: tokens that rows which do not end have written.
      likeliest: at the places of written tokens, where it was asked for.
    """

    cache: Cache
    written: DecodedRows
    finished: jax.Array
    log_probabilities: jax.Array
    keys: jax.Array
    steps: jax.Array
    likeliest: Likeliest | None = None

    def choose(self, logits: jax.Array, controls: Controls) -> Decoding:
        """With a token chosen in each row that is not finished, from logits `(batch, vocab)`."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.steps)
        return self.take(controls.choose(logits, self.written, keys), logits, controls)

    def take(self, token_ids: jax.Array, logits: jax.Array, controls: Controls) -> Decoding:
        """With these tokens, int32 `(batch,)`, in the rows that are not finished; `logits` are what the model said."""
        running = ~self.finished
        by_model = jax.nn.log_softmax(logits)
        logs = jnp.take_along_axis(by_model, token_ids[:, None], axis=1)
        is_new = running[:, None] & (jnp.arange(self.log_probabilities.shape[1]) == self.written.lengths[:, None])
        written = self.written.put(token_ids, running, controls.automaton)
        likeliest = self.likeliest
        if likeliest is not None:
            here = Likeliest.of(by_model[:, None], likeliest.token_ids.shape[2])
            likeliest = jax.tree.map(lambda new, old: jnp.where(is_new[..., None], new, old), here, likeliest)
        return self.replace(
            written=written,
            finished=self.finished | written.ended(controls.end_ids),
            log_probabilities=jnp.where(is_new, logs, self.log_probabilities),
            steps=self.steps + 1,
            likeliest=likeliest,
        )

    def newest(self) -> jax.Array:
        """The last token of each row, int32 `(batch,)`."""
        return self.written.newest()


def begin_written(prompts: Prompts, limits: jax.Array, width: int) -> DecodedRows:
    """Prompts in rows of `width` tokens, with room for what comes after them."""
    length = prompts.token_ids.shape[1]
    token_ids = jnp.pad(prompts.token_ids, ((0, 0), (0, max(0, width - length))))
    numbers = jnp.arange(len(prompts.lengths)) if prompts.numbers is None else prompts.numbers
    return DecodedRows(token_ids, prompts.lengths, prompts.lengths, limits, jnp.zeros_like(prompts.lengths), numbers)


@functools.partial(jax.jit, static_argnames=("decoder", "slots", "copies", "undone", "likeliest"))
def begin(
    decoder: Decoder,
    parameters: LaidOutParameters,
    prompts: Prompts,
    controls: Controls,
    limits: jax.Array,
    keys: jax.Array,
    *,
    slots: int,
    copies: int = 1,
    undone: int = 0,
    likeliest: int = 0,
) -> Decoding:
    """Reads prompts and writes the first token of each text.

    Args:
      decoder: what writes (static).
      parameters: of its model.
      prompts: `(batch, length)`.
      controls: how tokens are chosen.
      limits: int32 `(batch,)`: most tokens of prompt and text; a row with no more than its prompt is finished.
      keys: random keys `(batch * copies,)`.
      slots: room for tokens in the cache (static).
      copies: texts for each prompt, in rows one after the other (static).
      undone: tokens of a step that may be taken back (static).
      likeliest: how many of the likeliest tokens are kept at each place (static).
    """
    step, cache = decoder.start(parameters, prompts, slots, undone)
    written, logits = begin_written(prompts, limits, slots), step.logits[:, 0]
    if copies > 1:
        rows = jnp.repeat(jnp.arange(prompts.lengths.shape[0]), copies)
        cache, logits, written = take_rows(cache, rows), logits[rows], jax.tree.map(lambda x: x[rows], written)
    finished = written.lengths >= written.limits
    none = jnp.zeros(written.token_ids.shape, jnp.float32)
    kept = None
    if likeliest:
        shape = (*written.token_ids.shape, min(likeliest, logits.shape[-1]))
        kept = Likeliest(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
    return Decoding(cache, written, finished, none, keys, jnp.int32(0), kept).choose(logits, controls)


@functools.partial(jax.jit, static_argnames="decoder", donate_argnames="decoding")
def go_on(
    decoder: Decoder, parameters: LaidOutParameters, decoding: Decoding, controls: Controls, until: jax.Array
) -> Decoding:
    """Writes on until every row is finished or has written `until` tokens. The state that is given is used up."""

    def unfinished(decoding: Decoding) -> jax.Array:
        return (decoding.steps < until) & ~decoding.finished.all()

    def one_token(decoding: Decoding) -> Decoding:
        # The token of a row that is finished stays out of its cache, so the next one is written over it.
        logits, cache = decoder.advance(parameters, decoding.cache, decoding.newest(), ~decoding.finished)
        return decoding.replace(cache=cache).choose(logits, controls)

    return jax.lax.while_loop(unfinished, one_token, decoding)
