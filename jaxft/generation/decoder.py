"""A model as a decoding loop sees it: a first pass over prompts, then steps of a few tokens."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.errors import RecipeError
from jaxft.generation.cache import Cache, Layers, append, fill_cache
from jaxft.generation.layout import LaidOutParameters, SeparateLayers
from jaxft.models.model import AnyModel
from jaxft.models.transformer import Sequences


class Prompts(flax.struct.PyTreeNode):
    """Rows of prompts, padded at their ends.

    Attributes:
      token_ids: int32 `(batch, length)`: what the decoder reads first.
      lengths: int32 `(batch,)`: without padding, each at least 1.
      source_ids: int32 `(batch, source_length)`: what the encoder of an encoder-decoder reads, or None.
      source_lengths: int32 `(batch,)`, or None.
      numbers: int32 `(batch,)`: of the prompts, below 0 for rows that fill the batch; 0, 1, ... where None.
    """

    token_ids: jax.Array
    lengths: jax.Array
    source_ids: jax.Array | None = None
    source_lengths: jax.Array | None = None
    numbers: jax.Array | None = None

    def sources(self) -> Sequences | None:
        """The encoder's input."""
        if self.source_ids is None:
            return None
        assert self.source_lengths is not None
        columns = jnp.arange(self.source_ids.shape[1])
        return Sequences(self.source_ids, (columns < self.source_lengths[:, None]).astype(jnp.int32), padded=True)


class Step(flax.struct.PyTreeNode):
    """What a pass over new tokens gives.

    Attributes:
      logits: float32 `(batch, new, vocab)`.
      hidden: `(batch, new, embed)`.
      kept: their keys and values.
    """

    logits: jax.Array
    hidden: jax.Array
    kept: Layers


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A decoder, or an encoder-decoder, and the head that it writes with.

    Attributes:
      model: Linen module.
      head: name of its vocabulary head.
    """

    model: AnyModel
    head: str

    @property
    def has_encoder(self) -> bool:
        """Whether prompts are read by an encoder."""
        return self.model.config.family == "encoder_decoder"

    def read(self, parameters: LaidOutParameters, prompts: Prompts) -> Step:
        """A pass over whole prompts, `(batch, length)`, without a cache; the logits are those after each prompt's end.

        Returns:
          Logits `(batch, 1, vocab)`, hidden states and keys and values of all tokens.
        """
        columns = jnp.arange(prompts.token_ids.shape[1], dtype=jnp.int32)
        # Padding, which nothing sees, repeats the last position: some scalings look at the largest.
        positions = jnp.minimum(columns, prompts.lengths[:, None] - 1)
        source = prompts.sources()
        segments = None if source is None else jnp.ones_like(prompts.token_ids)
        read = Sequences(prompts.token_ids, segments, positions, causal=None if source else True)
        inputs, targets = (read, None) if source is None else (source, read)
        return self._run(parameters, {}, inputs, targets, (prompts.lengths - 1)[:, None])

    def start(self, parameters: LaidOutParameters, prompts: Prompts, slots: int, undone: int = 0) -> tuple[Step, Cache]:
        """Reads prompts into a cache with room for `slots` tokens; see `read` and `fill_cache`."""
        step = self.read(parameters, prompts)
        source = prompts.sources()
        segments = None if source is None else source.segment_ids
        return step, fill_cache(self.model.config, step.kept, prompts.lengths, segments, slots, undone)

    def step(self, parameters: LaidOutParameters, cache: Cache, token_ids: jax.Array) -> Step:
        """A pass over new tokens, int32 `(batch, new)`, that come after those in the cache; see `append`."""
        if self.has_encoder:
            assert cache.source_segments is not None
            placeholder = jnp.zeros_like(cache.source_segments)
            source = Sequences(placeholder, cache.source_segments)
            new = Sequences(token_ids, jnp.ones_like(token_ids), cached=cache.lengths, cache_slots=cache.slots)
            inputs, targets = source, new
        else:
            inputs = Sequences(token_ids, causal=True, cached=cache.lengths, cache_slots=cache.slots)
            targets = None
        return self._run(parameters, {"cache": cache.layers}, inputs, targets)

    def _run(
        self,
        parameters: LaidOutParameters,
        cache: dict[str, Layers],
        inputs: Sequences,
        targets: Sequences | None,
        gather: jax.Array | None = None,
    ) -> Step:
        """A pass of the model that keeps keys and values."""
        model = self.model
        if isinstance(parameters, SeparateLayers):
            # A loop over the layers would stack them.
            model = model.clone(compute=dataclasses.replace(model.compute, scan_layers=False))
            variables = parameters.variables()
        else:
            variables = {"params": parameters}
        output, kept = model.apply({**variables, **cache}, inputs, targets, self.head, gather, mutable=["keys_values"])
        return Step(output.logits, output.hidden, kept["keys_values"])

    def advance(
        self, parameters: LaidOutParameters, cache: Cache, token_ids: jax.Array, moves: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Reads one token of each row, int32 `(batch,)`.

        Args:
          parameters: of the model.
          cache: what was read before.
          token_ids: int32 `(batch,)`.
          moves: bool `(batch,)`: rows whose token stays in the cache.

        Returns:
          Logits `(batch, vocab)` and the cache.
        """
        step = self.step(parameters, cache, token_ids[:, None])
        logits = step.logits[:, 0]
        # Of a row whose logits are not numbers it does not matter where its keys go; see `append`.
        late = jnp.isnan(logits[:, 0]).astype(jnp.int32)
        return logits, append(cache, step.kept, moves.astype(jnp.int32), late)


def decoder_of(model: AnyModel) -> Decoder:
    """A model with the head that it writes with.

    Raises:
      RecipeError: it has none, or reads in a way that can't go on token by token.
    """
    config = model.config
    heads = [name for name, head in model.heads if head.kind == "causal_lm"]
    if config.family == "vision" or not heads:
        have = ", ".join(name for name, _ in model.heads) or "none"
        raise RecipeError(
            f"this {config.family.replace('_', '-')} model can't write: it needs a head of kind causal_lm "
            f"(of causal_lm, prefix_lm, seq2seq and others), and has {have}"
        )
    if config.position in ("disentangled", "transformer_xl") or config.convolution:
        raise RecipeError(f"a model with {config.position} positions can't write token by token")
    compute = dataclasses.replace(model.compute, remat="none")
    return Decoder(model.clone(compute=compute), heads[0])
