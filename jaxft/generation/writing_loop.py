"""The compiled loop that a configuration asks for, with its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.generation.config import GenerationConfig
from jaxft.generation.contrastive import Contrasting, begin_contrasting, go_on_contrasting
from jaxft.generation.controls import Controls
from jaxft.generation.decoder import Decoder
from jaxft.generation.layout import LaidOutParameters
from jaxft.generation.loop import Decoding, begin, go_on
from jaxft.generation.prompts import PromptBatch, bucket
from jaxft.generation.speculative import Drafting, begin_drafting, go_on_drafting

LoopState = Decoding | Contrasting | Drafting
# From a loop's own kind of state, and the steps that it goes on until, to the next state.
GoOn = Callable[[Any, jax.Array], LoopState]


def begin_loop(
    decoder: Decoder,
    parameters: LaidOutParameters,
    draft: tuple[Decoder, LaidOutParameters] | None,
    batch: PromptBatch,
    controls: Controls,
    config: GenerationConfig,
    keys: jax.Array,
) -> tuple[LoopState, GoOn]:
    """Reads prompts; returns the state of the loop that a configuration asks for, and the loop.

    Args:
      decoder: what writes.
      parameters: of its model.
      draft: what writes ahead, with its parameters, or None.
      batch: the prompts.
      controls: how tokens are chosen.
      config: how to write.
      keys: random keys, one for each text of the batch.
    """
    prompts, copies = batch.prompts, config.num_return_sequences
    if config.contrastive_alpha:
        alpha = jnp.float32(config.contrastive_alpha)
        contrasting = begin_contrasting(decoder, parameters, prompts, batch.limits, keys, slots=batch.slots)
        return contrasting, lambda state, until: go_on_contrasting(decoder, parameters, state, controls, alpha, until)
    if draft is None:
        more = {"slots": batch.slots, "copies": copies, "likeliest": config.top_logprobs}
        decoding = begin(decoder, parameters, prompts, controls, batch.limits, keys, **more)
        return decoding, lambda state, until: go_on(decoder, parameters, state, controls, until)
    drafter, of_drafter = draft
    ahead = config.draft_tokens
    # A round writes ahead of what may stay.
    slots = bucket(batch.slots + ahead + 1)
    decoding = begin(
        decoder, parameters, prompts, controls, batch.limits, keys, slots=slots, copies=copies, undone=ahead + 1
    )
    drafting = begin_drafting(drafter, of_drafter, prompts, decoding, slots=slots, copies=copies, ahead=ahead)
    return drafting, lambda state, until: go_on_drafting(
        decoder, parameters, drafter, of_drafter, state, controls, until, ahead=ahead
    )


def decoding_of(state: LoopState) -> Decoding:
    """What any loop has written."""
    return state if isinstance(state, Decoding) else state.decoding


def with_finished(state: LoopState, finished: np.ndarray) -> LoopState:
    """The state with these rows, bool `(batch,)`, as the finished ones."""
    decoding = decoding_of(state)
    decoding = decoding.replace(finished=jax.device_put(finished, decoding.finished.sharding))
    return decoding if isinstance(state, Decoding) else state.replace(decoding=decoding)


@jax.jit
def random_keys(seeds: jax.Array, numbers: jax.Array) -> jax.Array:
    """A random key for each seed and number, both uint32 `(batch,)`."""
    return jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(seeds, numbers)
