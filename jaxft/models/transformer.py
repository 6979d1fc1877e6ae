"""The trunk of every family: embeddings, one or two stacks, norms."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxft.kernels.exchange import in_sequence
from jaxft.kernels.masks import AttentionMask, balanced_order, ring_positions
from jaxft.kernels.shapes import Array, Hidden, OfTokens
from jaxft.models.blocks import BlockInputs, make_norm
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Dropout, Embedding, Linear, partitioned
from jaxft.models.positions import RelativeBias, alibi_bias, rotary_angles, sinusoidal_table
from jaxft.models.relative import DisentangledPositions, transformer_xl_positions
from jaxft.models.stack import Stack
from jaxft.parallel.sharding import constrain, parts_of

# Before the last projection they may have another width than the hidden states.
Vectors = Float[Array, "batch length features"]


class Sequences(flax.struct.PyTreeNode):
    """A batch of token sequences, padded or packed.

    Attributes:
      token_ids: int32 `(batch, length)`, each in `[0, vocab_size)`.
      segment_ids: int32 `(batch, length)`: 0 for padding, else the number of the packed segment; None: all one segment.
      positions: int32 `(batch, length)`, restarting in each packed segment; None: 0, 1, 2, ...
      token_types: int32 `(batch, length)`, or None for type 0 everywhere.
      prefix: bool `(batch, length)`: tokens that a causal model reads in both directions (prefix LM), or None.
      order: int32 `(batch, length)`: rank of each token in the order in which a permutation language model predicts
        them, or None. With it a model with `transformer_xl` positions runs two streams (Yang et al. 2019) and returns
        that of the queries, each of which knows its own position, but only the content of tokens of a lower rank.
      causal: whether the only stack of an encoder or a decoder reads from left to right alone, as its family does where
        None: a decoder can read both ways with the same parameters (static).
      cached: int32 `(batch,)`: how many tokens of each row come before these, their keys and values in the collection
        `cache` (see `jaxft.models.blocks.Attention`), or None. Only what reads from left to right can go on like this.
      cache_slots: for how many tokens a layer without a window has room in that cache (static).
      balanced: for how many devices that share the length the tokens are laid out (see `balanced_order`); 1 where they
        stand as they follow each other (static).
      padded: whether nothing is packed: each row is one segment with padding behind it (static). Kernels need not know,
        but some are faster so.
    """

    token_ids: OfTokens
    segment_ids: OfTokens | None = None
    positions: OfTokens | None = None
    token_types: OfTokens | None = None
    prefix: Bool[Array, "batch length"] | None = None
    order: OfTokens | None = None
    causal: bool | None = flax.struct.field(pytree_node=False, default=None)
    cached: Int[Array, " batch"] | None = None
    cache_slots: int = flax.struct.field(pytree_node=False, default=0)
    balanced: int = flax.struct.field(pytree_node=False, default=1)
    padded: bool = flax.struct.field(pytree_node=False, default=False)

    def placed(self) -> OfTokens:
        """Positions, counted from 0, or after the cached tokens, where none are given."""
        return self.counted() if self.positions is None else self.positions

    def counted(self) -> OfTokens:
        """Numbers of the tokens in their rows, int32 `(batch, length)`, those of the cache before them."""
        numbers = jnp.asarray(balanced_order(self.token_ids.shape[1], self.balanced))
        start = 0 if self.cached is None else self.cached[:, None]
        return jnp.broadcast_to(start + numbers, self.token_ids.shape)

    def balance(self) -> Sequences:
        """Laid out for the devices that share the length, so that each has as much to do where reading is causal.

        What is too short, or belongs to a cache or an order of prediction, stays as it is.
        """
        devices, length = parts_of("length"), self.token_ids.shape[1]
        if devices == 1 or length % (2 * devices) or self.cached is not None or self.order is not None:
            return self
        order = balanced_order(length, devices)
        tokens = {name: getattr(self, name) for name in ("token_ids", "segment_ids", "token_types", "prefix")}
        laid = {name: None if one is None else one[:, order] for name, one in tokens.items()}
        return self.replace(**laid, positions=self.placed()[:, order], padded=False, balanced=devices)


class Images(flax.struct.PyTreeNode):
    """A batch of images for a vision model.

    Attributes:
      pixels: float `(batch, channels, height, width)`, normalized.
    """

    pixels: Float[Array, "batch channels height width"]


class TokenEmbeddings(nn.Module):
    """Token, position and type embeddings with their norm and dropout; one table also serves the vocabulary head."""

    config: ModelConfig
    compute: ComputeConfig

    def setup(self) -> None:
        config = self.config
        scale, width = config.initializer_range, config.width_of_embedding
        self.tokens = Embedding(config.vocab_size, width, "vocab", scale)
        last = config.embedding_projection == "last"
        inner = width if last else config.embed_dim
        _set_up_positions(self, inner)
        if config.token_types:
            self.types = Embedding(config.token_types, inner, "token_type", scale)
        if width != config.embed_dim:
            self.projection = Linear(
                (config.embed_dim,), ("features",), ("embed",), last, jnp.dtype(self.compute.precision), scale
            )

    def __call__(self, sequences: Sequences) -> Hidden:
        x, config = self.positioned(sequences), self.config
        last = config.width_of_embedding != config.embed_dim and config.embedding_projection == "last"
        return self.projection(x) if last else x

    def positioned(self, sequences: Sequences) -> Vectors:
        """With everything but a last projection, `(batch, length, embedding or embed)`."""
        x, config = self.vectors(sequences), self.config
        if config.width_of_embedding != config.embed_dim and config.embedding_projection == "first":
            x = self.projection(x)
        if config.token_types:
            types = sequences.token_types
            x = x + self.types(jnp.zeros_like(sequences.token_ids) if types is None else types)
        return _positioned(self, x, sequences)

    def vectors(self, sequences: Sequences) -> Vectors:
        """Token embeddings alone, float32 `(batch, length, embedding)`, rounded as weights of products are."""
        rows = self.tokens(sequences.token_ids, jnp.dtype(self.compute.precision))
        return rows.astype(jnp.float32) * self.config.embedding_scale

    def attend(self, x: Float[Array, "*places embedding"]) -> Float[Array, "*places vocab"]:
        """The token embedding as a projection onto the vocabulary: `(..., vocab)` from `(..., embedding)`."""
        return self.tokens.attend(x, jnp.dtype(self.compute.precision))


class TargetEmbeddings(nn.Module):
    """Positions and norm of a decoder that shares its token embedding with the encoder."""

    config: ModelConfig
    compute: ComputeConfig

    def setup(self) -> None:
        _set_up_positions(self, self.config.embed_dim)

    def __call__(self, vectors: Vectors, targets: Sequences) -> Hidden:
        """From token embeddings `(batch, length, embed)`."""
        return _positioned(self, vectors, targets)


def _set_up_positions(module: nn.Module, width: int) -> None:
    """The parts that follow a token embedding of this width: positions, norm, dropout."""
    config = module.config
    if config.has_learned_positions:
        rows = config.max_length + config.position_offset
        module.learned_positions = Embedding(rows, width, "position", config.initializer_range)
    if config.embedding_norm:
        module.norm = make_norm(config, module.compute)
    module.drop = Dropout(config.dropout)


def _positioned(module: nn.Module, x: Vectors, sequences: Sequences) -> Vectors:
    """Token embeddings with positions, norm and dropout, in the dtype of the computation."""
    config = module.config
    if config.has_learned_positions:
        x = x + module.learned_positions(sequences.placed() + config.position_offset)
    if config.position == "sinusoidal":
        x = x + jnp.asarray(sinusoidal_table(config.max_length, config.embed_dim))[sequences.placed()]
    x = constrain(x, "batch", "length", "features")
    x = module.norm(x) if config.embedding_norm else x
    return module.drop(x.astype(jnp.dtype(module.compute.precision)))


class PatchEmbeddings(nn.Module):
    """Patches of an image as tokens, after learned class tokens, with learned positions (Dosovitskiy et al. 2020)."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, images: Images) -> Hidden:
        """`(batch, class_tokens + patches, embed)`.

        Raises:
          ValueError: images of another size than the model's.
        """
        config, size = self.config, self.config.patch_size
        batch, channels, height, width = images.pixels.shape
        if (channels, height, width) != (config.channels, config.image_size, config.image_size):
            wanted = (config.channels, config.image_size, config.image_size)
            raise ValueError(f"images are {(channels, height, width)}, the model takes {wanted}")
        rows = config.image_size // size
        dtype = jnp.dtype(self.compute.precision)
        patches = images.pixels.astype(dtype).reshape(batch, channels, rows, size, rows, size)
        patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(batch, rows * rows, -1)
        x = Linear(
            (config.embed_dim,), ("features",), ("embed",), True, dtype, config.initializer_range, name="patches"
        )(patches).astype(jnp.float32)

        def learned(name: str, count: int) -> jax.Array:
            table = Embedding(count, config.embed_dim, "position", config.initializer_range, name=name)
            return table(jnp.arange(count))

        first = jnp.broadcast_to(
            learned("class_tokens", config.class_tokens), (batch, config.class_tokens, config.embed_dim)
        )
        x = jnp.concatenate([first, x], axis=1)
        x = x + learned("positions", config.class_tokens + rows * rows)
        return Dropout(config.dropout)(constrain(x, "batch", "length", "features").astype(dtype))


class Side(nn.Module):
    """An encoder or a decoder without its embeddings: positions, blocks, final norm."""

    config: ModelConfig
    compute: ComputeConfig
    num_layers: int
    causal: bool
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        sequences: Sequences,
        encoded: Float[Array, "batch source_length embed"] | None = None,
        source: Sequences | None = None,
    ) -> Hidden:
        segments = sequences.segment_ids
        causal = self.causal if sequences.causal is None else sequences.causal
        mask = AttentionMask(
            causal=causal,
            query_segments=segments,
            key_segments=segments,
            padded=sequences.padded,
            prefix=sequences.prefix if causal else None,
            balanced=sequences.balanced,
        )
        if sequences.cached is not None:
            # Which keys a layer's cache holds, the layer knows; rows of a cache are neither packed nor padded.
            mask = AttentionMask(causal=causal, query_positions=sequences.counted())
        inputs = self._with_positions(BlockInputs(mask, cached=sequences.cached), sequences)
        if sequences.order is not None:
            inputs = _two_streams(inputs, sequences)
        if self.cross:
            assert source is not None
            padded = sequences.padded and source.padded
            cross_mask = AttentionMask(query_segments=segments, key_segments=source.segment_ids, padded=padded)
            inputs = inputs.replace(encoded=encoded, cross_mask=cross_mask)
        x = Stack(self.config, self.compute, self.num_layers, self.cross, name="stack")(x, inputs)
        return make_norm(self.config, self.compute, "final_norm")(x) if self.config.final_norm else x

    def _with_positions(self, inputs: BlockInputs, sequences: Sequences) -> BlockInputs:
        """What the blocks must know of positions beyond what the embeddings say."""
        config, positions = self.config, sequences.placed()
        key_positions = positions
        if sequences.cached is not None:
            before = ring_positions(sequences.cached, sequences.cache_slots)
            key_positions = jnp.concatenate([before, positions], axis=1)
        if config.position in ("relative_bias", "alibi") and sequences.cached is None:
            # Within a segment tokens are as far from each other as in the row: one bias does for all rows.
            positions = key_positions = sequences.counted()[:1]
        if config.position == "relative_bias":
            bias = RelativeBias(
                config.num_heads,
                config.relative_buckets,
                config.relative_max_distance,
                not self.causal,
                config.initializer_range,
                name="relative_bias",
            )(positions, key_positions)
            return inputs.replace(mask=inputs.mask.replace(bias=bias))
        if config.position == "alibi":
            bias = alibi_bias(positions, key_positions, config.num_heads)
            return inputs.replace(mask=inputs.mask.replace(bias=bias, exact_bias=True))
        if config.position == "disentangled":
            relative = DisentangledPositions(config, self.compute, name="relative_positions")(positions)
            return inputs.replace(relative=relative)
        if config.position == "transformer_xl":
            streams = 1 if sequences.order is None else 2
            relative = transformer_xl_positions(positions, sequences.token_types, config.embed_dim, streams)
            return inputs.replace(relative=relative)
        if config.position == "rotary":
            local = None
            if config.local_rotary_base is not None:
                local = rotary_angles(positions, config.rotary_dim, config.local_rotary_base)
            angles = rotary_angles(positions, config.rotary_dim, config.rotary_base, config.rotary_scaling)
            return inputs.replace(angles=angles, local_angles=local)
        return inputs


def _two_streams(inputs: BlockInputs, sequences: Sequences) -> BlockInputs:
    """For queries that follow the content: content sees itself and what is of a lower rank, a query not itself."""
    assert sequences.order is not None
    segments, order = sequences.segment_ids, 2 * sequences.order
    ranks = jnp.concatenate([order + 1, order], axis=1)
    mask = inputs.mask.replace(query_order=ranks, key_order=order, padded=False)
    if segments is not None:
        mask = mask.replace(query_segments=jnp.tile(segments, (1, 2)))
    return inputs.replace(mask=mask, source_length=order.shape[1])


class Transformer(nn.Module):
    """The trunk: from token ids to hidden states.

    Attributes:
      config: the model; its `family` decides which of the stacks exist.
      compute: how it is computed.
    """

    config: ModelConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        config, compute = self.config, self.compute
        # Of images or of tokens: each model is called with its own kind of input.
        self.embeddings: Any = (PatchEmbeddings if config.family == "vision" else TokenEmbeddings)(config, compute)
        if config.family == "encoder_decoder":
            self.encoder = Side(config, compute, config.num_layers, causal=False)
            self.target_embeddings = TargetEmbeddings(config, compute)
            self.decoder = Side(config.of_decoder(), compute, config.decoder_layers, causal=True, cross=True)
        else:
            causal = config.family == "decoder" and not config.bidirectional
            self.body = Side(config, compute, config.num_layers, causal=causal)
            if self._narrow_output:
                self.output_projection = Linear(
                    (config.width_of_embedding,),
                    ("embed",),
                    ("features",),
                    dtype=jnp.dtype(compute.precision),
                    initializer_range=config.initializer_range,
                )

        if config.position == "transformer_xl":
            initializer = partitioned(nn.initializers.normal(config.initializer_range), ("features",))
            self.query_vector = self.param("query_vector", initializer, (config.embed_dim,), jnp.float32)

    @property
    def _narrow_output(self) -> bool:
        """Whether hidden states leave in the width of the embedding, as they came in (OPT 350M)."""
        return self.config.embedding_projection == "first" and self.config.width_of_embedding != self.config.embed_dim

    def __call__(self, inputs: Sequences | Images, targets: Sequences | None = None) -> Hidden:
        """Hidden states `(batch, length, embed)`; of the `targets` in an encoder-decoder, else of the `inputs`.

        In an encoder-decoder, source and target tokens see each other where their segment ids agree; either both or
        none of the two have segment ids. The encoder does not run where earlier targets, and so what they read of it,
        are cached.
        """
        if isinstance(inputs, Images):
            x = self.embeddings(inputs)
            sequences = Sequences(jnp.zeros(x.shape[:2], jnp.int32))
        elif self.config.family == "encoder_decoder":
            assert targets is not None
            return self.decode(targets, self.encode(inputs) if targets.cached is None else None, inputs)
        else:
            sequences = self._laid(inputs, self.body)
            x = self.embeddings(sequences)
        if sequences.order is not None:
            return self._of_queries(x, sequences)
        hidden = in_sequence(self.body(x, sequences), sequences.balanced)
        return self.output_projection(hidden) if self._narrow_output else hidden

    def _laid(self, sequences: Sequences, side: Side) -> Sequences:
        """Balanced over the devices that share the length, where reading is causal and nothing is kept by its place."""
        causal = side.causal if sequences.causal is None else sequences.causal
        kept = any(self.is_mutable_collection(name) for name in ("keys_values", "layer_outputs"))
        return sequences.balance() if causal and not kept else sequences

    def _of_queries(self, x: Hidden, inputs: Sequences) -> Hidden:
        """Hidden states of the query stream of two-stream attention."""
        if self.config.position != "transformer_xl":
            raise ValueError("an order of prediction needs `transformer_xl` positions")
        queries = jnp.broadcast_to(self.query_vector.astype(x.dtype), x.shape)
        return self.body(jnp.concatenate([x, queries], axis=1), inputs)[:, x.shape[1] :]

    def encode(self, sequences: Sequences) -> Hidden:
        """Output of the encoder of an encoder-decoder, `(batch, source_length, embed)`."""
        return self.encoder(self.embeddings(sequences), sequences)

    def decode(
        self, targets: Sequences, encoded: Float[Array, "batch source_length embed"] | None, source: Sequences
    ) -> Hidden:
        """Hidden states of the decoder that reads `encoded`, `(batch, target_length, embed)`."""
        targets = self._laid(targets, self.decoder)
        embedded = self.target_embeddings(self.embeddings.vectors(targets), targets)
        return in_sequence(self.decoder(embedded, targets, encoded, source), targets.balanced)
