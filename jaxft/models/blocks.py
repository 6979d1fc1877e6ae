"""Feed-forward, and the block that joins it with attention, for all families."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.shapes import Array, Hidden, OfTokens
from jaxft.models.attention import Attention
from jaxft.models.config import ComputeConfig, LayerKind, ModelConfig
from jaxft.models.layers import Dropout, Linear, Norm, activate, make_norm
from jaxft.models.positions import Angles
from jaxft.models.relative import RelativePositions
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
