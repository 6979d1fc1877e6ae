"""The trunk of every family: embeddings, one or two stacks, norms."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxft.kernels.masks import AttentionMask
from jaxft.models.blocks import BlockInputs, Stack, make_norm
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Dropout, Embedding
from jaxft.models.positions import RelativeBias, alibi_bias, rotary_angles, sinusoidal_table
from jaxft.parallel.sharding import constrain


@flax.struct.dataclass
class Sequences:
    """A batch of token sequences, padded or packed.

    Attributes:
      token_ids: int32 `(batch, length)`, each in `[0, vocab_size)`.
      segment_ids: int32 `(batch, length)`: 0 for padding, else the number of the packed segment; None: all one segment.
      positions: int32 `(batch, length)`, restarting in each packed segment; None: 0, 1, 2, ...
      token_types: int32 `(batch, length)`, or None for type 0 everywhere.
      prefix: bool `(batch, length)`: tokens that a causal model reads in both directions (prefix LM), or None.
    """

    token_ids: jax.Array
    segment_ids: jax.Array | None = None
    positions: jax.Array | None = None
    token_types: jax.Array | None = None
    prefix: jax.Array | None = None

    def placed(self) -> jax.Array:
        """Positions, counted from 0 where none are given."""
        if self.positions is not None:
            return self.positions
        return jnp.broadcast_to(jnp.arange(self.token_ids.shape[1], dtype=jnp.int32), self.token_ids.shape)


class TokenEmbeddings(nn.Module):
    """Token, position and type embeddings with their norm and dropout; one table also serves the vocabulary head."""

    config: ModelConfig
    compute: ComputeConfig

    def setup(self):
        config = self.config
        scale = config.initializer_range
        self.tokens = Embedding(config.vocab_size, config.embed_dim, "vocab", scale)
        if config.position == "learned":
            self.learned_positions = Embedding(config.max_length, config.embed_dim, "position", scale)
        if config.token_types:
            self.types = Embedding(config.token_types, config.embed_dim, "token_type", scale)
        if config.embedding_norm:
            self.norm = make_norm(config, self.compute)
        self.drop = Dropout(config.dropout)

    def __call__(self, sequences: Sequences) -> jax.Array:
        config = self.config
        x = self.tokens(sequences.token_ids) * config.embedding_scale
        if config.position == "learned":
            x = x + self.learned_positions(sequences.placed())
        elif config.position == "sinusoidal":
            x = x + jnp.asarray(sinusoidal_table(config.max_length, config.embed_dim))[sequences.placed()]
        if config.token_types:
            types = sequences.token_types
            x = x + self.types(jnp.zeros_like(sequences.token_ids) if types is None else types)
        x = constrain(x, "batch", "length", "features")
        x = self.norm(x) if config.embedding_norm else x
        return self.drop(x.astype(jnp.dtype(self.compute.precision)))

    def table(self) -> jax.Array:
        """The token embedding, float32 `(vocab, embed)`."""
        return self.tokens.table


class _Side(nn.Module):
    """An encoder or a decoder without its embeddings: positions, blocks, final norm."""

    config: ModelConfig
    compute: ComputeConfig
    num_layers: int
    causal: bool
    cross: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, sequences: Sequences, encoded=None, source: Sequences | None = None) -> jax.Array:
        config = self.config
        positions = sequences.placed()
        bias = angles = local_angles = None
        if config.position == "relative_bias":
            bias = RelativeBias(
                config.num_heads, config.relative_buckets, config.relative_max_distance, not self.causal,
                config.initializer_range, name="relative_bias",
            )(positions, positions)  # fmt: skip
        elif config.position == "alibi":
            bias = alibi_bias(positions, positions, config.num_heads)
        elif config.position == "rotary":
            angles = rotary_angles(positions, config.rotary_dim, config.rotary_base)
            if config.local_rotary_base is not None:
                local_angles = rotary_angles(positions, config.rotary_dim, config.local_rotary_base)
        segments = sequences.segment_ids
        mask = AttentionMask(
            causal=self.causal, query_segments=segments, key_segments=segments,
            prefix=sequences.prefix if self.causal else None, bias=bias,
        )  # fmt: skip
        cross_mask = None
        if self.cross:
            cross_mask = AttentionMask(query_segments=segments, key_segments=source.segment_ids)
        inputs = BlockInputs(mask, angles, local_angles, encoded, cross_mask)
        x = Stack(config, self.compute, self.num_layers, self.cross, name="stack")(x, inputs)
        return make_norm(config, self.compute, "final_norm")(x) if config.final_norm else x


class Transformer(nn.Module):
    """The trunk: from token ids to hidden states.

    Attributes:
      config: the model; its `family` decides which of the stacks exist.
      compute: how it is computed.
      causal: overrides whether the only stack of an encoder or decoder is causal: a decoder with `causal=False`
        reads both ways with the same parameters.
    """

    config: ModelConfig
    compute: ComputeConfig = ComputeConfig()
    causal: bool | None = None

    def setup(self):
        config, compute = self.config, self.compute
        self.embeddings = TokenEmbeddings(config, compute)
        if config.family == "encoder_decoder":
            self.encoder = _Side(config, compute, config.num_layers, causal=False)
            self.decoder = _Side(config, compute, config.decoder_layers, causal=True, cross=True)
        else:
            causal = config.family == "decoder" if self.causal is None else self.causal
            self.body = _Side(config, compute, config.num_layers, causal=causal)

    def __call__(self, sequences: Sequences, targets: Sequences | None = None) -> jax.Array:
        """Hidden states `(batch, length, embed)`; of the `targets` in an encoder-decoder, else of the `sequences`.

        In an encoder-decoder, source and target tokens see each other where their segment ids agree; either both or
        none of the two have segment ids.
        """
        if self.config.family != "encoder_decoder":
            return self.body(self.embeddings(sequences), sequences)
        return self.decode(targets, self.encode(sequences), sequences)

    def encode(self, sequences: Sequences) -> jax.Array:
        """Output of the encoder of an encoder-decoder, `(batch, source_length, embed)`."""
        return self.encoder(self.embeddings(sequences), sequences)

    def decode(self, targets: Sequences, encoded: jax.Array, source: Sequences) -> jax.Array:
        """Hidden states of the decoder that reads `encoded`, `(batch, target_length, embed)`."""
        return self.decoder(self.embeddings(targets), targets, encoded, source)
