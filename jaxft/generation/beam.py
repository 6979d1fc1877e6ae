"""Beam search, by the rules of transformers 5."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.generation.cache import Cache, take_rows
from jaxft.generation.config import GenerationConfig
from jaxft.generation.controls import Controls, Written
from jaxft.generation.decoder import Decoder, Parameters, Prompts
from jaxft.generation.loop import begin_written

# Below any sum of log-probabilities, but not infinite: a difference of two of these must be a number.
_NEVER = -1e9


@flax.struct.dataclass
class BeamRules:
    """What a search goes by.

    Attributes:
      length_penalty: float32: log-probabilities are divided by the length to this power.
      beams: sequences kept (static).
      early_stopping: as in `GenerationConfig` (static).
    """

    length_penalty: jax.Array
    beams: int = flax.struct.field(pytree_node=False)
    early_stopping: bool | str = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, config: GenerationConfig) -> BeamRules:
        """Those of a configuration."""
        return cls(jnp.float32(config.length_penalty), config.beams, config.early_stopping)


@flax.struct.dataclass
class Finished:
    """The best finished sequences of each prompt.

    Attributes:
      token_ids: int32 `(batch, beams, width)`: prompt and text.
      lengths: int32 `(batch, beams)`.
      sums: float32 `(batch, beams)`: log-probabilities.
      scores: the same after the length penalty; the best first.
      there: bool `(batch, beams)`: whether there is such a sequence yet.
    """

    token_ids: jax.Array
    lengths: jax.Array
    sums: jax.Array
    scores: jax.Array
    there: jax.Array


@flax.struct.dataclass
class Search:
    """The state of a search over `batch` prompts; its running sequences are `batch * beams` rows.

    Attributes:
      cache: of all tokens but the newest.
      written: the running sequences.
      sums: float32 `(batch, beams)`: their log-probabilities.
      finished: the finished ones.
      improvable: bool `(batch,)`: whether running ones may yet be better.
    """

    cache: Cache
    written: Written
    sums: jax.Array
    finished: Finished
    improvable: jax.Array


def _take(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """`(batch, taken, ...)` from `(batch, beams, ...)` by int32 `(batch, taken)`."""
    return jax.vmap(lambda row, of_row: row[of_row])(x, numbers)


def _extend(search: Search, logits: jax.Array, controls: Controls, rules: BeamRules) -> Search:
    """One token more for every running sequence, from logits `(batch * beams, vocab)`."""
    beams, batch = rules.beams, search.sums.shape[0]
    logs = controls.allowed(jax.nn.log_softmax(logits), search.written)
    vocab = logs.shape[-1]
    total = (search.sums[..., None] + logs.reshape(batch, beams, vocab)).reshape(batch, beams * vocab)
    # So many that, even where every beam's likeliest tokens end it, enough sequences go on.
    candidates = max(2, 1 + controls.end_ids.shape[0]) * beams
    sums, chosen = jax.lax.top_k(total, candidates)
    parents, token_ids = chosen // vocab, (chosen % vocab).astype(jnp.int32)
    rows = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
    grown = jax.tree.map(lambda x: x[rows], search.written)
    grown = grown.put(token_ids.reshape(-1), jnp.ones(rows.shape, bool), controls.automaton)
    ends = grown.ended(controls.end_ids).reshape(batch, candidates)
    running_sums, kept = jax.lax.top_k(jnp.where(ends, sums + _NEVER, sums), beams)
    places = (jnp.arange(batch)[:, None] * candidates + kept).reshape(-1)
    return search.replace(
        cache=take_rows(search.cache, rows[places]),
        written=jax.tree.map(lambda x: x[places], grown),
        sums=running_sums,
        finished=_with_ended(search, grown, sums, ends, rules),
    )


def _with_ended(search: Search, grown: Written, sums: jax.Array, ends: jax.Array, rules: BeamRules) -> Finished:
    """The best of those that were finished before and of those that have just ended."""
    finished, (batch, candidates) = search.finished, sums.shape

    def of_candidates(x: jax.Array) -> jax.Array:
        return x.reshape(batch, candidates, *x.shape[1:])

    # One that is not among the best `beams` is there to go on, not to end.
    ends = ends & (jnp.arange(candidates) < rules.beams)
    written = of_candidates(grown.lengths - grown.prompt_lengths).astype(jnp.float32)
    closed = finished.there.all(1, keepdims=True) & (rules.early_stopping is True)
    closed |= ~search.improvable[:, None]
    scores = sums / written**rules.length_penalty + jnp.where(closed, _NEVER, 0.0) + jnp.where(ends, 0.0, _NEVER)
    new = Finished(of_candidates(grown.token_ids), of_candidates(grown.lengths), sums, scores, ends)
    joined = jax.tree.map(lambda old, added: jnp.concatenate([old, added], axis=1), finished, new)
    _, best = jax.lax.top_k(joined.scores, rules.beams)
    return jax.tree.map(lambda x: _take(x, best), joined)


def _judged(search: Search, rules: BeamRules) -> Search:
    """With the question answered whether a running sequence may yet be better than the worst finished one."""
    batch = search.sums.shape[0]
    written = search.written
    reached = written.lengths
    if rules.early_stopping == "never":
        # With a penalty above 0 longer ones may yet gain.
        reached = jnp.where(rules.length_penalty > 0, written.limits, reached)
    length = (reached - written.prompt_lengths).reshape(batch, -1)[:, 0].astype(jnp.float32)
    best = search.sums[:, 0] / length**rules.length_penalty
    finished = search.finished
    worst = jnp.where(finished.there, finished.scores.min(1, keepdims=True), _NEVER)
    room = (written.lengths < written.limits).reshape(batch, -1)[:, 0]
    return search.replace(improvable=search.improvable & room & (best[:, None] > worst).any(1))


@functools.partial(jax.jit, static_argnames=("decoder", "slots"))
def beam_search(
    decoder: Decoder, parameters: Parameters, prompts: Prompts, controls: Controls, limits: jax.Array,
    rules: BeamRules, *, slots: int,
) -> Finished:  # fmt: skip
    """The best sequences of each prompt.

    Args:
      decoder: what writes (static).
      parameters: of its model.
      prompts: `(batch, length)`.
      controls: rules and penalties; nothing is drawn.
      limits: int32 `(batch,)`: most tokens of prompt and text.
      rules: of the search.
      slots: room for tokens in the cache (static).
    """
    beams, batch = rules.beams, prompts.lengths.shape[0]
    step, cache = decoder.start(parameters, prompts, slots)
    rows = jnp.repeat(jnp.arange(batch), beams)
    written = jax.tree.map(lambda x: x[rows], begin_written(prompts, limits, slots))
    # All beams are alike before the first token, so only the first of them counts.
    sums = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER) * jnp.ones((batch, 1))
    never = jnp.full((batch, beams), _NEVER)
    nothing = Finished(
        written.token_ids.reshape(batch, beams, -1), written.lengths.reshape(batch, beams), never, never,
        jnp.zeros((batch, beams), bool),
    )  # fmt: skip
    # A row that is there to fill the batch has no room to write, and must not keep the others waiting.
    search = Search(take_rows(cache, rows), written, sums, nothing, limits > prompts.lengths)
    search = _judged(_extend(search, step.logits[:, 0][rows], controls, rules), rules)

    def unfinished(search: Search) -> jax.Array:
        return search.improvable.any() & ~(search.finished.there.all() & (rules.early_stopping is True))

    def one_token(search: Search) -> Search:
        newest = jnp.take_along_axis(search.written.token_ids, search.written.lengths[:, None] - 1, axis=1)[:, 0]
        going = search.written.lengths < search.written.limits
        logits, cache = decoder.advance(parameters, search.cache, newest, going)
        return _judged(_extend(search.replace(cache=cache), logits, controls, rules), rules)

    return jax.lax.while_loop(unfinished, one_token, search).finished
