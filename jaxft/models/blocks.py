"""Attention, feed-forward and the block that joins them, for all families."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxft.kernels.attention import attention
from jaxft.kernels.cached_attention import cached_attention
from jaxft.kernels.masks import AttentionMask, ring_positions
from jaxft.kernels.shapes import Array, Hidden, Keys, OfTokens, Queries
from jaxft.models.config import ComputeConfig, LayerKind, ModelConfig
from jaxft.models.layers import Dropout, Linear, Norm, activate
from jaxft.models.positions import Angles, rotate
from jaxft.models.relative import RelativePositions, TransformerXLBias, disentangled_bias
from jaxft.parallel.platform import target_platform
from jaxft.parallel.sharding import constrain


class BlockInputs(flax.struct.PyTreeNode):
    """What every block of a stack reads besides the residual stream.

    Attributes:
      mask: who sees whom within the stack.
      angles: rotary cosines and sines, or None.
      local_angles: those of layers with a window.
      relative: relative positions of `disentangled` and `transformer_xl`, or None.
      source_length: how many leading tokens are attended to, where others only attend (two-stream attention); all of
        them where None (static).
      cached: int32 `(batch,)`: how many tokens before these lie in the collection `cache`, or None without one.
      encoded: output of the encoder `(batch, source_length, embed)` for cross attention, or None, as it is also where
        its keys and values lie in the collection `cache`.
      cross_mask: who sees whom across, given whenever `encoded` is.
    """

    mask: AttentionMask
    angles: Angles | None = None
    local_angles: Angles | None = None
    relative: RelativePositions | None = None
    source_length: int | None = flax.struct.field(pytree_node=False, default=None)
    cached: Int[Array, " batch"] | None = None
    encoded: Float[Array, "batch source_length embed"] | None = None
    cross_mask: AttentionMask | None = None


def make_norm(config: ModelConfig, compute: ComputeConfig, name: str | None = None) -> Norm:
    """The norm that a configuration asks for."""
    return Norm(
        config.norm, config.norm_epsilon, config.norm_bias, config.norm_offset, jnp.dtype(compute.precision), name=name
    )


class Attention(nn.Module):
    """Multi-head attention with grouped key and value heads.

    Keys and values, after norms and rotations, are kept as `key` and `value` where the collection `keys_values` is
    mutable; what was kept of earlier tokens is attended to where it is given as the collection `cache`.

    Attributes:
      config: the model.
      compute: how it is computed.
    """

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        source: Float[Array, "batch source_length embed"] | None,
        mask: AttentionMask,
        angles: Angles | None = None,
        relative: RelativePositions | None = None,
        cached: Int[Array, " batch"] | None = None,
    ) -> Hidden:
        """`(batch, length, embed)`: `x` attends to `source` `(batch, source_length, embed)`, after the cache.

        Args:
          x: where queries come from, `(batch, length, embed)`.
          source: where keys and values come from; None where all of them are cached.
          mask: who sees whom.
          angles: rotary cosines and sines, or None.
          relative: relative positions, or None.
          cached: int32 `(batch,)`: tokens in the cache that stand before those of `source`, or None.
        """
        config, compute = self.config, self.compute
        natural = config.width_of_head**-0.5
        scale = natural if config.attention_scale is None else config.attention_scale
        # Scores begin equally small whatever the scale: T5, which has none, puts it into its first queries instead.
        query_projection = self._heads("query", config.num_heads, "heads", config.initializer_range * natural / scale)
        key_projection = self._heads("key", config.kv_heads, "kv_heads")
        query = query_projection(x)
        key = None if source is None else key_projection(source)
        value = None if source is None else self._heads("value", config.kv_heads, "kv_heads")(source)
        if config.query_key_norm != "none":
            query = self._normalized(query, "query_norm")
            key = None if key is None else self._normalized(key, "key_norm")
        if angles is not None:
            query, key = rotate(query, angles), None if key is None else rotate(key, angles)
        if key is not None and value is not None:
            self._keep(key, value)
        query = constrain(query, "batch", "length", "heads", "head_dim")
        if config.position == "disentangled":
            # Three kinds of scores are summed: content to content, content to position, position to content.
            scale /= math.sqrt(3)
            assert key is not None and relative is not None  # such models have no cache
            bias = disentangled_bias(query, key, relative, query_projection, key_projection)
            mask = mask.replace(bias=bias * scale)
        elif config.position == "transformer_xl":
            assert relative is not None
            query, bias = TransformerXLBias(config, compute, name="relative")(query, relative)
            mask = mask.replace(bias=bias * scale)
        mixed = self._attended(query, key, value, mask, scale, cached)
        output_bias = config.attention_bias if config.attention_output_bias is None else config.attention_output_bias
        return Linear(
            (config.embed_dim,),
            ("heads", "head_dim"),
            ("embed",),
            output_bias,
            jnp.dtype(compute.precision),
            config.initializer_range,
            jnp.dtype(compute.reduce_dtype),
            name="output",
        )(mixed)

    def _attended(
        self,
        query: Queries,
        key: Keys | None,
        value: Keys | None,
        mask: AttentionMask,
        scale: float,
        cached: Int[Array, " batch"] | None,
    ) -> Queries:
        """What each query finds, `(batch, length, heads, head_dim)`."""
        if self.has_variable("cache", "key"):
            return self._with_cache(query, key, value, mask, scale, cached)
        assert key is not None and value is not None  # else they lie in the cache
        config = self.config
        has_dropout = config.attention_dropout > 0 and self.has_rng("dropout")
        return attention(
            query,
            key,
            value,
            mask,
            scale=scale,
            soft_cap=config.attention_soft_cap,
            dropout_rate=config.attention_dropout,
            dropout_key=self.make_rng("dropout") if has_dropout else None,
            implementation=self.compute.attention,
        )

    def _keep(self, key: Keys, value: Keys) -> None:
        if self.is_mutable_collection("keys_values") and not self.is_initializing():
            self.put_variable("keys_values", "key", key)
            self.put_variable("keys_values", "value", value)

    def _with_cache(
        self,
        query: Queries,
        key: Keys | None,
        value: Keys | None,
        mask: AttentionMask,
        scale: float,
        cached: Int[Array, " batch"] | None,
    ) -> Queries:
        """Attention to the cache and then to the new tokens, `(batch, length, heads, head_dim)`."""
        parts: list[tuple[jax.Array, jax.Array]] = [
            (self.get_variable("cache", "key"), self.get_variable("cache", "value"))
        ]
        if key is not None and value is not None:
            assert cached is not None and mask.query_positions is not None  # as where there are new keys beside a cache
            parts.append((key, value))
            before = ring_positions(cached, parts[0][0].shape[1])
            mask = mask.replace(key_positions=jnp.concatenate([before, mask.query_positions], axis=1))
        return cached_attention(query, parts, mask, scale=scale, soft_cap=self.config.attention_soft_cap)

    def _heads(self, name: str, number: int, axis: str, initializer_range: float | None = None) -> Linear:
        config, compute = self.config, self.compute
        return Linear(
            (number, config.width_of_head),
            ("embed",),
            (axis, "head_dim"),
            config.attention_bias,
            jnp.dtype(compute.precision),
            initializer_range or config.initializer_range,
            jnp.dtype(compute.reduce_dtype),
            name=name,
        )

    def _normalized(self, x: Queries, name: str) -> Queries:
        norm = make_norm(self.config, self.compute, name)
        if self.config.query_key_norm == "head":
            return norm(x)
        return norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape)


class FeedForward(nn.Module):
    """Two projections with an activation between, or three where gated."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        config, compute = self.config, self.compute

        def linear(name: str, size: int, axes: tuple[str, str]) -> Linear:
            return Linear(
                (size,),
                axes[:1],
                axes[1:],
                config.mlp_bias,
                jnp.dtype(compute.precision),
                config.initializer_range,
                jnp.dtype(compute.reduce_dtype),
                name=name,
            )

        inner = linear("input", config.mlp_dim, ("embed", "mlp"))(x)
        if config.gated:
            gate = linear("gate", config.mlp_dim, ("embed", "mlp"))(x)
            if gate.dtype == jnp.bfloat16 and target_platform() == "tpu":
                # Or the compiler hands it on in float32, as the product sums.
                gate = jax.lax.optimization_barrier(gate)
            inner = inner * activate(config.activation, gate)
        else:
            inner = activate(config.activation, inner)
        inner = constrain(inner, "batch", "length", "mlp")
        return linear("output", config.embed_dim, ("mlp", "embed"))(inner)


class Block(nn.Module):
    """One layer: attention, cross attention in a decoder that reads an encoder, and feed-forward, each with a residual.

    Attributes:
      config: the model.
      compute: how it is computed.
      kind: in what it differs from its neighbours.
      cross: whether the layer reads the encoder.
    """

    config: ModelConfig
    compute: ComputeConfig
    kind: LayerKind = LayerKind()
    cross: bool = False

    @nn.compact
    def __call__(self, x: Hidden, inputs: BlockInputs) -> Hidden:
        config, compute, kind = self.config, self.compute, self.kind
        mask, angles = inputs.mask, inputs.angles
        if kind.window:
            mask = mask.replace(window=(kind.window, kind.window))
            angles = inputs.local_angles or angles
        angles = angles if kind.rotary else None
        attend = Attention(config, compute, name="attention")
        feed_forward = FeedForward(config, compute, name="feed_forward")
        if config.parallel_residual:
            attended = attend(y := self._norm("attention_norm")(x), y, mask, angles, cached=inputs.cached)
            return x + self._drop(attended) + self._drop(feed_forward(self._norm("feed_forward_norm")(x)))
        x = self._residual(
            "attention",
            x,
            lambda y: attend(y, y[:, : inputs.source_length], mask, angles, inputs.relative, inputs.cached),
            kind.attention_norm,
        )
        if self.cross:
            across, cross_mask = Attention(config, compute, name="cross_attention"), inputs.cross_mask
            assert cross_mask is not None
            x = self._residual("cross_attention", x, lambda y: across(y, inputs.encoded, cross_mask))
        x = self._residual("feed_forward", x, feed_forward)
        return constrain(x, "batch", "length", "features")

    def _residual(self, name: str, x: Hidden, layer: Callable[[jax.Array], jax.Array], has_norm: bool = True) -> Hidden:
        placement = self.config.norm_placement
        before = placement in ("pre", "sandwich") and has_norm
        y = layer(self._norm(f"{name}_norm")(x) if before else x)
        if placement in ("sandwich", "output"):
            y = self._norm(f"{name}_output_norm")(y)
        x = x + self._drop(y)
        return self._norm(f"{name}_norm")(x) if placement == "post" else x

    def _norm(self, name: str) -> Norm:
        return make_norm(self.config, self.compute, name)

    def _drop(self, x: Hidden) -> Hidden:
        return Dropout(self.config.dropout)(x)


class Convolution(nn.Module):
    """Neighbouring tokens of the input, mixed into the output of the first block (He et al. 2021, DeBERTa v2)."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x: Hidden, output: Hidden, segments: OfTokens | None) -> Hidden:
        """`(batch, length, embed)` from the block's input and output; others' segments and padding are zeros."""
        config = self.config
        side = config.convolution // 2
        if segments is None:
            segments = jnp.ones(x.shape[:2], jnp.int32)
        padded = jnp.pad(x, ((0, 0), (side, side), (0, 0)))
        owners = jnp.pad(segments, ((0, 0), (side, side)))
        length = x.shape[1]
        near = [
            jnp.where((owners[:, i : i + length] == segments)[..., None], padded[:, i : i + length], 0)
            for i in range(config.convolution)
        ]
        real = (segments > 0)[..., None]
        mixed = Linear(
            (config.embed_dim,),
            ("features",),
            ("embed",),
            True,
            jnp.dtype(self.compute.precision),
            config.initializer_range,
            name="kernel",
        )(jnp.where(real, jnp.concatenate(near, axis=-1), 0))
        mixed = activate(config.convolution_activation, Dropout(config.dropout)(jnp.where(real, mixed, 0)))
        return make_norm(config, self.compute, "norm")(output + mixed)
