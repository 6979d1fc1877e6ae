"""What is done to logits before a token is chosen: rules and penalties first, then what is drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.generation import sampling
from jaxft.generation.automaton import Automaton
from jaxft.generation.choice import ask
from jaxft.generation.config import GenerationConfig, SpecialTokens


class DecodedRows(flax.struct.PyTreeNode):
    """What a decoding loop knows of its rows.

    Attributes:
      token_ids: int32 `(batch, width)`: prompt and text, padded.
      prompt_lengths: int32 `(batch,)`.
      lengths: int32 `(batch,)`: of prompt and text.
      limits: int32 `(batch,)`: that `lengths` does not go beyond.
      states: int32 `(batch,)`: where the rows are in the automaton of a constraint.
      numbers: int32 `(batch,)`: of the prompts that the rows come from, below 0 for rows that fill the batch.
    """

    token_ids: jax.Array
    prompt_lengths: jax.Array
    lengths: jax.Array
    limits: jax.Array
    states: jax.Array
    numbers: jax.Array

    def newest(self) -> jax.Array:
        """The last token of each row, int32 `(batch,)`."""
        return jnp.take_along_axis(self.token_ids, self.lengths[:, None] - 1, axis=1)[:, 0]

    def put(self, token_ids: jax.Array, running: jax.Array, automaton: Automaton | None) -> DecodedRows:
        """With one more token in the rows that are `running`."""
        rows = jnp.arange(self.token_ids.shape[0])
        places = jnp.minimum(self.lengths, self.token_ids.shape[1] - 1)
        kept = jnp.where(running, token_ids, self.token_ids[rows, places])
        states = self.states
        if automaton is not None:
            states = jnp.where(running, automaton.next(states, token_ids), states)
        return self.replace(
            token_ids=jax.vmap(lambda row, place, token: row.at[place].set(token))(self.token_ids, places, kept),
            lengths=self.lengths + running.astype(jnp.int32),
            states=states,
        )

    def ended(self, end_ids: jax.Array) -> jax.Array:
        """Rows that have just written an end token, or are full; bool `(batch,)`."""
        return (self.newest()[:, None] == end_ids).any(-1) | (self.lengths >= self.limits)


class Controls(flax.struct.PyTreeNode):
    """A `GenerationConfig` as compiled code takes it: what is None is not compiled in, numbers may change.

    Attributes:
      end_ids: int32 `(ends,)`.
      top_k: see `GenerationConfig`; static, as `no_repeat_ngram` is.
      no_repeat_ngram: likewise.
      temperature: float32, or None for the likeliest token. As the fields below, see `GenerationConfig`.
      forced: int32 `(tokens,)`: what each text begins with, below 0 where nothing is forced; or None.
      forced_last: int32, or None.
      suppressed: bool `(vocab,)`: tokens that are never written, or None.
      bias: float32 `(vocab,)`: added to the logits, or None.
      automaton: of a regular expression, or None.
      chosen_by: number of a function of the host that says what may come next (`jaxft.generation.choice`), or None.
    """

    end_ids: jax.Array
    top_k: int = flax.struct.field(pytree_node=False, default=0)
    no_repeat_ngram: int = flax.struct.field(pytree_node=False, default=0)
    temperature: jax.Array | None = None
    top_p: jax.Array | None = None
    min_p: jax.Array | None = None
    typical_p: jax.Array | None = None
    repetition_penalty: jax.Array | None = None
    presence_penalty: jax.Array | None = None
    frequency_penalty: jax.Array | None = None
    min_new_tokens: jax.Array | None = None
    forced: jax.Array | None = None
    forced_last: jax.Array | None = None
    suppressed: jax.Array | None = None
    bias: jax.Array | None = None
    automaton: Automaton | None = None
    chosen_by: jax.Array | None = None

    def standing(self, logits: jax.Array) -> jax.Array:
        """Logits after the rules that hold whatever was written."""
        if self.bias is not None:
            logits = logits + self.bias
        return logits if self.suppressed is None else jnp.where(self.suppressed, sampling.RULED_OUT, logits)

    def allowed(self, logits: jax.Array, written: DecodedRows) -> jax.Array:
        """Logits after penalties and rules, in the order of transformers."""
        vocab = logits.shape[-1]
        columns = jnp.arange(written.token_ids.shape[1])[None]
        is_real = columns < written.lengths[:, None]
        logits = self.standing(logits)
        if self.repetition_penalty is not None:
            seen = sampling.count_tokens(written.token_ids, is_real, vocab) > 0
            logits = sampling.penalize_repetition(logits, seen, self.repetition_penalty)
        if self.presence_penalty is not None:
            assert self.frequency_penalty is not None  # given whenever the other is
            is_text = is_real & (columns >= written.prompt_lengths[:, None])
            counts = sampling.count_tokens(written.token_ids, is_text, vocab)
            logits = sampling.penalize_use(logits, counts, self.presence_penalty, self.frequency_penalty)
        if self.no_repeat_ngram:
            logits = sampling.forbid_repeated_ngrams(logits, written.token_ids, written.lengths, self.no_repeat_ngram)
        is_end = (jnp.arange(vocab)[:, None] == self.end_ids).any(-1)
        new = written.lengths - written.prompt_lengths
        if self.min_new_tokens is not None:
            too_short = new < self.min_new_tokens
            logits = jnp.where(too_short[:, None] & is_end, sampling.RULED_OUT, logits)
        if self.automaton is not None:
            left = written.limits - written.lengths
            fits = self.automaton.allowed(written.states, left, is_end)
            logits = jnp.where(fits, logits, sampling.RULED_OUT)
        if self.chosen_by is not None:
            going = ~written.ended(self.end_ids) | (new == 0)
            fits = ask(self.chosen_by, written.numbers, written.token_ids, written.prompt_lengths, new, going, vocab)
            logits = jnp.where(fits, logits, sampling.RULED_OUT)
        if self.forced is not None:
            place = jnp.minimum(new, self.forced.shape[0] - 1)
            is_forced = (new < self.forced.shape[0]) & (self.forced[place] >= 0)
            logits = sampling.only(logits, self.forced[place], is_forced)
        if self.forced_last is not None:
            logits = sampling.only(logits, self.forced_last, written.lengths == written.limits - 1)
        return logits

    def drawn_from(self, logits: jax.Array) -> jax.Array:
        """Logits of the distribution that tokens are drawn from, in the order of transformers."""
        if self.temperature is not None:
            logits = logits / self.temperature
        if self.top_k:
            logits = sampling.keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = sampling.keep_top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = sampling.keep_min_p(logits, self.min_p)
        if self.typical_p is not None:
            logits = sampling.keep_typical(logits, self.typical_p)
        return logits

    def choose(self, logits: jax.Array, written: DecodedRows, keys: jax.Array) -> jax.Array:
        """The next token of each row, int32 `(batch,)`; `keys` is a random key for each row."""
        logits = self.allowed(logits, written)
        if self.temperature is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return sampling.draw(self.drawn_from(logits), keys)


def make_controls(
    config: GenerationConfig,
    special: SpecialTokens,
    vocab: int,
    automaton: Automaton | None = None,
    forced: Sequence[int] = (),
    chosen_by: int | None = None,
) -> Controls:
    """The controls of a configuration.

    Args:
      config: how a model writes.
      special: ids of the model.
      vocab: number of tokens.
      automaton: of the configuration's constraint.
      forced: ids that each text begins with.
      chosen_by: number of a function that says what may come next.
    """

    def unless(none: float, value: float) -> jax.Array | None:
        return None if value == none else jnp.float32(value)

    def id_of(token: int | None) -> jax.Array | None:
        return None if token is None else jnp.int32(token)

    suppressed = None
    if special.suppressed:
        suppressed = jnp.zeros(vocab, bool).at[jnp.asarray(special.suppressed)].set(True)
    bias = None
    if config.logit_bias:
        ids, values = zip(*config.logit_bias, strict=True)
        bias = jnp.zeros(vocab, jnp.float32).at[jnp.asarray(ids)].set(jnp.asarray(values, jnp.float32))
    uses = config.presence_penalty != 0 or config.frequency_penalty != 0
    return Controls(
        end_ids=jnp.asarray([*special.end, *config.stop_token_ids], jnp.int32),
        top_k=config.top_k,
        no_repeat_ngram=config.no_repeat_ngram,
        temperature=unless(0, config.temperature),
        top_p=unless(1, config.top_p),
        min_p=unless(0, config.min_p),
        typical_p=unless(1, config.typical_p),
        repetition_penalty=unless(1, config.repetition_penalty),
        presence_penalty=jnp.float32(config.presence_penalty) if uses else None,
        frequency_penalty=jnp.float32(config.frequency_penalty) if uses else None,
        min_new_tokens=None if config.min_new_tokens == 0 else jnp.int32(config.min_new_tokens),
        forced=_forced(forced),
        forced_last=id_of(special.forced_last),
        suppressed=suppressed,
        bias=bias,
        automaton=automaton,
        chosen_by=id_of(chosen_by),
    )


def _forced(token_ids: Sequence[int]) -> jax.Array | None:
    """Ids, filled up to few lengths."""
    if not token_ids:
        return None
    size = 1 << (len(token_ids) - 1).bit_length()
    return jnp.asarray([*token_ids, *[-1] * (size - len(token_ids))], jnp.int32)
