"""Beam search, by the rules of transformers 5, in one group of beams or in several that differ from each other."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.generation import sampling
from jaxft.generation.cache import Cache, take_rows
from jaxft.generation.config import GenerationConfig
from jaxft.generation.controls import Controls, DecodedRows
from jaxft.generation.decoder import Decoder, Prompts
from jaxft.generation.layout import LaidOutParameters
from jaxft.generation.loop import begin_written

# Below any sum of log-probabilities, but not infinite: a difference of two of these must be a number.
_NEVER = -1e9


class BeamRules(flax.struct.PyTreeNode):
    """What a search goes by.

    Attributes:
      length_penalty: float32: log-probabilities are divided by the length to this power.
      diversity_penalty: float32: taken from a token's for each beam of an earlier group that has just written it.
      beams: sequences kept by each group (static).
      groups: of beams (static).
      early_stopping: as in `GenerationConfig` (static).
    """

    length_penalty: jax.Array
    diversity_penalty: jax.Array
    beams: int = flax.struct.field(pytree_node=False)
    groups: int = flax.struct.field(pytree_node=False)
    early_stopping: bool | str = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, config: GenerationConfig) -> BeamRules:
        """Those of a configuration."""
        penalties = jnp.float32(config.length_penalty), jnp.float32(config.diversity_penalty)
        return cls(*penalties, config.beams // config.beam_groups, config.beam_groups, config.early_stopping)


class Finished(flax.struct.PyTreeNode):
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


class Search(flax.struct.PyTreeNode):
    """The state of a group's search over `batch` prompts; its running sequences are `batch * beams` rows.

    Attributes:
      written: the running sequences.
      sums: float32 `(batch, beams)`: their log-probabilities.
      finished: the finished ones.
      improvable: bool `(batch,)`: whether running ones may yet be better.
    """

    written: DecodedRows
    sums: jax.Array
    finished: Finished
    improvable: jax.Array

    def unfinished(self, rules: BeamRules) -> jax.Array:
        """Whether there is anything left to be found, bool."""
        return self.improvable.any() & ~(self.finished.there.all() & (rules.early_stopping is True))


class Searches(flax.struct.PyTreeNode):
    """The state of all groups.

    Attributes:
      cache: of all tokens but the newest of each running sequence, group by group.
      groups: the search of each.
    """

    cache: Cache
    groups: tuple[Search, ...]


def _take(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """`(batch, taken, ...)` from `(batch, beams, ...)` by int32 `(batch, taken)`."""
    return jax.vmap(lambda row, of_row: row[of_row])(x, numbers)


def _extend_all(searches: Searches, logits: jax.Array, controls: Controls, rules: BeamRules) -> Searches:
    """One token more for every running sequence, from logits `(groups * batch * beams, vocab)`."""
    count, extended, taken = logits.shape[0] // rules.groups, [], []
    batch = count // rules.beams
    uses = jnp.zeros((batch, logits.shape[-1]), jnp.int32)
    for number, search in enumerate(searches.groups):
        logs = jax.nn.log_softmax(logits[number * count : (number + 1) * count])
        if number:
            logs -= rules.diversity_penalty * jnp.repeat(uses, rules.beams, axis=0)
        search, parents = _extend(search, controls.allowed(logs, search.written), controls, rules)
        extended.append(_judged(search, rules))
        taken.append(number * count + parents)
        if rules.groups > 1:
            newest = search.written.newest().reshape(batch, -1)
            uses += sampling.count_tokens(newest, jnp.ones(newest.shape, bool), uses.shape[-1])
    return Searches(take_rows(searches.cache, jnp.concatenate(taken)), tuple(extended))


def _extend(search: Search, logs: jax.Array, controls: Controls, rules: BeamRules) -> tuple[Search, jax.Array]:
    """One token more for every running sequence of a group.

    Args:
      search: of the group.
      logs: float32 `(batch * beams, vocab)`: log-probabilities.
      controls: that have been applied to them.
      rules: of the search.

    Returns:
      The search, and the rows that its running sequences go on from, int32 `(batch * beams,)`.
    """
    beams, batch = rules.beams, search.sums.shape[0]
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
    extended = search.replace(
        written=jax.tree.map(lambda x: x[places], grown),
        sums=running_sums,
        finished=_with_ended(search, grown, sums, ends, rules),
    )
    return extended, rows[places]


def _with_ended(search: Search, grown: DecodedRows, sums: jax.Array, ends: jax.Array, rules: BeamRules) -> Finished:
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
    decoder: Decoder,
    parameters: LaidOutParameters,
    prompts: Prompts,
    controls: Controls,
    limits: jax.Array,
    rules: BeamRules,
    *,
    slots: int,
) -> Finished:
    """The best `groups * beams` sequences of each prompt, the best first.

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
    every = jnp.tile(rows, rules.groups)
    written = jax.tree.map(lambda x: x[rows], begin_written(prompts, limits, slots))
    # All beams are alike before the first token, so only the first of them counts.
    sums = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER) * jnp.ones((batch, 1))
    never = jnp.full((batch, beams), _NEVER)
    nothing = Finished(
        written.token_ids.reshape(batch, beams, -1),
        written.lengths.reshape(batch, beams),
        never,
        never,
        jnp.zeros((batch, beams), bool),
    )
    # A row that is there to fill the batch has no room to write, and must not keep the others waiting.
    search = Search(written, sums, nothing, limits > prompts.lengths)
    searches = Searches(take_rows(cache, every), (search,) * rules.groups)
    searches = _extend_all(searches, step.logits[:, 0][every], controls, rules)

    def unfinished(searches: Searches) -> jax.Array:
        return jnp.stack([search.unfinished(rules) for search in searches.groups]).any()

    def one_token(searches: Searches) -> Searches:
        written = [search.written for search in searches.groups]
        newest = jnp.concatenate([one.newest() for one in written])
        going = jnp.concatenate([one.lengths < one.limits for one in written])
        logits, cache = decoder.advance(parameters, searches.cache, newest, going)
        return _extend_all(searches.replace(cache=cache), logits, controls, rules)

    found = [search.finished for search in jax.lax.while_loop(unfinished, one_token, searches).groups]
    joined = jax.tree.map(lambda *of_groups: jnp.concatenate(of_groups, axis=1), *found)
    return jax.tree.map(lambda x: _take(x, jnp.argsort(-joined.scores, axis=1, stable=True)), joined)
