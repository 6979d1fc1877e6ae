"""Speculative decoding: a small model writes ahead, the large one checks (Leviathan et al. 2023, arXiv 2211.17192)."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.errors import RecipeError
from jaxft.generation import sampling
from jaxft.generation.cache import Cache, append, take_rows
from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.controls import Controls, DecodedRows
from jaxft.generation.decoder import Decoder, Prompts
from jaxft.generation.layout import LaidOutParameters
from jaxft.generation.loop import Decoding


class Drafting(flax.struct.PyTreeNode):
    """The state of a loop.

    Attributes:
      decoding: of the model; its `steps` are rounds.
      draft: cache of the draft model; as that of the model it holds all tokens but the newest.
      accepted: int32 `(batch,)`: drafted tokens that were taken.
    """

    decoding: Decoding
    draft: Cache
    accepted: jax.Array


def probabilities(logits: jax.Array, controls: Controls) -> jax.Array:
    """What tokens are drawn from, float32 `(batch, vocab)`; all on the likeliest one where nothing is drawn.

    Controls that look at what was written before are not applied: drafted tokens are not written yet.
    """
    logits = controls.standing(logits)
    if controls.temperature is None:
        return jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1])
    return jax.nn.softmax(controls.drawn_from(logits), axis=-1)


def accept(drafted: jax.Array, theirs: jax.Array, ours: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many drafted tokens stay, and the token after them: together distributed as if drawn from `ours` alone.

    Args:
      drafted: int32 `(batch, ahead)`.
      theirs: float32 `(batch, ahead, vocab)`: the draft model's probabilities, that `drafted` was drawn from.
      ours: float32 `(batch, ahead + 1, vocab)`: the model's.
      keys: random keys `(batch,)`.

    Returns:
      int32 `(batch,)` each.
    """
    ahead = drafted.shape[1]
    chance, rest = jax.vmap(jax.random.split, out_axes=1)(keys)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (ahead,)))(chance)
    of_draft = jnp.take_along_axis(theirs, drafted[..., None], axis=-1)[..., 0]
    of_model = jnp.take_along_axis(ours[:, :ahead], drafted[..., None], axis=-1)[..., 0]
    # Times the draft's probability rather than over it, which may be 0 in float32.
    stays = uniform * of_draft < of_model
    count = jnp.cumprod(stays.astype(jnp.int32), axis=1).sum(1)
    # After the first refusal what the draft model had too much of is taken away; after none there is nothing to take.
    less = jnp.pad(theirs, ((0, 0), (0, 1), (0, 0)))
    at = count[:, None, None]
    left = jnp.take_along_axis(ours, at, axis=1)[:, 0] - jnp.take_along_axis(less, at, axis=1)[:, 0]
    left = jnp.maximum(left, 0.0)
    # Rounding may leave nothing where both models agree.
    left = jnp.where(left.sum(-1, keepdims=True) > 0, left, jnp.take_along_axis(ours, at, axis=1)[:, 0])
    return count, sampling.draw(jnp.log(left), rest)


@functools.partial(jax.jit, static_argnames=("draft", "slots", "copies", "ahead"))
def begin_drafting(
    draft: Decoder,
    parameters: LaidOutParameters,
    prompts: Prompts,
    decoding: Decoding,
    *,
    slots: int,
    copies: int,
    ahead: int,
) -> Drafting:
    """The state after `jaxft.generation.loop.begin` with `undone = ahead + 1`, for the model that writes ahead too."""
    _, cache = draft.start(parameters, prompts, slots, ahead + 1)
    if copies > 1:
        cache = take_rows(cache, jnp.repeat(jnp.arange(prompts.lengths.shape[0]), copies))
    return Drafting(decoding, cache, jnp.zeros_like(decoding.written.lengths))


@functools.partial(jax.jit, static_argnames=("decoder", "draft", "ahead"), donate_argnames="drafting")
def go_on_drafting(
    decoder: Decoder,
    parameters: LaidOutParameters,
    draft: Decoder,
    draft_parameters: LaidOutParameters,
    drafting: Drafting,
    controls: Controls,
    rounds: jax.Array,
    *,
    ahead: int,
) -> Drafting:
    """Writes on for some rounds, each of 1 to `ahead + 1` tokens, or until every row is finished."""

    def unfinished(drafting: Drafting) -> jax.Array:
        return (drafting.decoding.steps < rounds) & ~drafting.decoding.finished.all()

    def one_round(drafting: Drafting) -> Drafting:
        decoding = drafting.decoding
        keys = jax.vmap(jax.random.fold_in, (0, None))(decoding.keys, decoding.steps)
        drafted, theirs, cache = _write_ahead(draft, draft_parameters, drafting, controls, keys, ahead)
        read = jnp.concatenate([decoding.newest()[:, None], drafted], axis=1)
        step = decoder.step(parameters, decoding.cache, read)
        ours = jax.vmap(lambda logits: probabilities(logits, controls), 1, 1)(step.logits)
        count, last = accept(drafted, theirs, ours, jax.vmap(jax.random.fold_in, (0, None))(keys, ahead))
        place = jnp.arange(ahead + 1)
        new = jnp.where(place < count[:, None], jnp.pad(drafted, ((0, 0), (0, 1))), last[:, None])
        logs = jnp.take_along_axis(jax.nn.log_softmax(step.logits), new[..., None], axis=-1)[..., 0]
        decoding = _put_all(decoding, new, logs, count + 1, controls)
        moved = decoding.written.lengths - drafting.decoding.written.lengths
        decoding = decoding.replace(cache=append(decoding.cache, step.kept, moved), steps=decoding.steps + 1)
        cache = cache.replace(lengths=drafting.draft.lengths + moved)
        accepted = jnp.where(drafting.decoding.finished, 0, count)
        return Drafting(decoding, cache, drafting.accepted + accepted)

    return jax.lax.while_loop(unfinished, one_round, drafting)


def _write_ahead(
    draft: Decoder, parameters: LaidOutParameters, drafting: Drafting, controls: Controls, keys: jax.Array, ahead: int
) -> tuple[jax.Array, jax.Array, Cache]:
    """Tokens drawn from the draft model, int32 `(batch, ahead)`, what they were drawn from, and its cache with them."""
    token_ids, cache = drafting.decoding.newest(), drafting.draft
    everyone = jnp.ones(token_ids.shape, bool)
    drafted, theirs = [], []
    for i in range(ahead):
        logits, cache = draft.advance(parameters, cache, token_ids, everyone)
        theirs.append(probabilities(logits, controls))
        token_ids = sampling.draw(jnp.log(theirs[-1]), jax.vmap(jax.random.fold_in, (0, None))(keys, i))
        drafted.append(token_ids)
    # The last one is read too, so that the cache holds all but the newest where every one is accepted.
    _, cache = draft.advance(parameters, cache, token_ids, everyone)
    return jnp.stack(drafted, axis=1), jnp.stack(theirs, axis=1), cache


def _put_all(decoding: Decoding, new: jax.Array, logs: jax.Array, count: jax.Array, controls: Controls) -> Decoding:
    """With the first `count` tokens of `new` `(batch, ahead + 1)`, but none after one that ends its row."""
    columns = jnp.arange(decoding.log_probabilities.shape[1])
    for i in range(new.shape[1]):
        running = ~decoding.finished & (i < count)
        is_new = running[:, None] & (columns == decoding.written.lengths[:, None])
        written: DecodedRows = decoding.written.put(new[:, i], running, None)
        decoding = decoding.replace(
            written=written,
            finished=decoding.finished | (running & written.ended(controls.end_ids)),
            log_probabilities=jnp.where(is_new, logs[:, i : i + 1], decoding.log_probabilities),
        )
    return decoding


def check_drafting(config: GenerationConfig, special: SpecialTokens, chosen_by: int | None) -> None:
    """Raises RecipeError for what drafted tokens, which are not written yet, can't be held to."""
    plain = GenerationConfig()
    names = (
        "min_new_tokens",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "no_repeat_ngram",
        "beams",
        "contrastive_alpha",
        "regex",
        "json_schema",
        "prefix",
        "top_logprobs",
    )
    for name in names:
        if getattr(config, name) != getattr(plain, name):
            raise RecipeError(f"{name} can't be used with a draft model")
    if chosen_by is not None:
        raise RecipeError("allowed_tokens can't be used with a draft model")
    if special.forced_last is not None:
        raise RecipeError("a model with a last token that is forced can't be used with a draft model")
