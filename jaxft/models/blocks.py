"""Attention, feed-forward and the block that joins them, for all families."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxft.kernels.attention import attention
from jaxft.kernels.masks import AttentionMask
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Dropout, Linear, Norm, activate
from jaxft.models.positions import rotate
from jaxft.parallel.sharding import constrain

Angles = tuple[jax.Array, jax.Array]


@flax.struct.dataclass
class BlockInputs:
    """What every block of a stack reads besides the residual stream.

    Attributes:
      mask: who sees whom within the stack.
      angles: rotary cosines and sines, or None.
      local_angles: those of layers with a window.
      encoded: output of the encoder `(batch, source_length, embed)` for cross attention, or None.
      cross_mask: who sees whom across, given whenever `encoded` is.
    """

    mask: AttentionMask
    angles: Angles | None = None
    local_angles: Angles | None = None
    encoded: jax.Array | None = None
    cross_mask: AttentionMask | None = None


def make_norm(config: ModelConfig, compute: ComputeConfig, name: str | None = None) -> Norm:
    """The norm that a configuration asks for."""
    return Norm(
        config.norm, config.norm_epsilon, config.norm_bias, config.norm_offset, jnp.dtype(compute.precision), name=name
    )


class Attention(nn.Module):
    """Multi-head attention with grouped key and value heads.

    Attributes:
      config: the model.
      compute: how it is computed.
    """

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x: jax.Array, source: jax.Array, mask: AttentionMask, angles: Angles | None = None) -> jax.Array:
        """`(batch, length, embed)`: `x` attends to `source` `(batch, source_length, embed)`."""
        config, compute = self.config, self.compute
        width = config.width_of_head

        def heads(name: str, number: int, axis: str) -> Linear:
            return Linear(
                (number, width), ("embed",), (axis, "head_dim"), config.attention_bias, jnp.dtype(compute.precision),
                config.initializer_range, name=name,
            )  # fmt: skip

        query = heads("query", config.num_heads, "heads")(x)
        key = heads("key", config.kv_heads, "kv_heads")(source)
        value = heads("value", config.kv_heads, "kv_heads")(source)
        if config.query_key_norm:
            query = make_norm(config, compute, "query_norm")(query)
            key = make_norm(config, compute, "key_norm")(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        query = constrain(query, "batch", "length", "heads", "head_dim")
        has_dropout = config.attention_dropout > 0 and self.has_rng("dropout")
        mixed = attention(
            query, key, value, mask,
            scale=width**-0.5 if config.attention_scale is None else config.attention_scale,
            soft_cap=config.attention_soft_cap,
            dropout_rate=config.attention_dropout,
            dropout_key=self.make_rng("dropout") if has_dropout else None,
            implementation=compute.attention,
        )  # fmt: skip
        return Linear(
            (config.embed_dim,), ("heads", "head_dim"), ("embed",), config.attention_bias, jnp.dtype(compute.precision),
            config.initializer_range, name="output",
        )(mixed)  # fmt: skip


class FeedForward(nn.Module):
    """Two projections with an activation between, or three where gated."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config

        def linear(name: str, size: int, axes: tuple[str, str]) -> Linear:
            return Linear(
                (size,), axes[:1], axes[1:], config.mlp_bias, jnp.dtype(self.compute.precision),
                config.initializer_range, name=name,
            )  # fmt: skip

        inner = activate(config.activation, linear("input", config.mlp_dim, ("embed", "mlp"))(x))
        if config.gated:
            inner = inner * linear("gate", config.mlp_dim, ("embed", "mlp"))(x)
        inner = constrain(inner, "batch", "length", "mlp")
        return linear("output", config.embed_dim, ("mlp", "embed"))(inner)


class Block(nn.Module):
    """One layer: attention, cross attention in a decoder that reads an encoder, and feed-forward, each with a residual.

    Attributes:
      config: the model.
      compute: how it is computed.
      window: tokens seen to each side, 0 for all.
      cross: whether the layer reads the encoder.
    """

    config: ModelConfig
    compute: ComputeConfig
    window: int = 0
    cross: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, inputs: BlockInputs) -> jax.Array:
        config, compute = self.config, self.compute
        mask, angles = inputs.mask, inputs.angles
        if self.window:
            mask = mask.replace(window=(self.window, self.window))
            angles = inputs.local_angles or angles
        attend = Attention(config, compute, name="attention")
        feed_forward = FeedForward(config, compute, name="feed_forward")
        if config.parallel_residual:
            attended = attend(y := self._norm("attention_norm")(x), y, mask, angles)
            return x + self._drop(attended) + self._drop(feed_forward(self._norm("feed_forward_norm")(x)))
        x = self._residual("attention", x, lambda y: attend(y, y, mask, angles))
        if self.cross:
            across = Attention(config, compute, name="cross_attention")
            x = self._residual("cross_attention", x, lambda y: across(y, inputs.encoded, inputs.cross_mask))
        x = self._residual("feed_forward", x, feed_forward)
        return constrain(x, "batch", "length", "features")

    def _residual(self, name: str, x: jax.Array, layer) -> jax.Array:
        placement = self.config.norm_placement
        y = layer(x if placement == "post" else self._norm(f"{name}_norm")(x))
        if placement == "sandwich":
            y = self._norm(f"{name}_output_norm")(y)
        x = x + self._drop(y)
        return self._norm(f"{name}_norm")(x) if placement == "post" else x

    def _norm(self, name: str) -> Norm:
        return make_norm(self.config, self.compute, name)

    def _drop(self, x: jax.Array) -> jax.Array:
        return Dropout(self.config.dropout)(x)


class _Group(nn.Module):
    """The blocks of one period of the window pattern: the body of the scan over layers."""

    config: ModelConfig
    compute: ComputeConfig
    windows: tuple[int, ...]
    cross: bool

    @nn.compact
    def __call__(self, x: jax.Array, inputs: BlockInputs):
        for i, window in enumerate(self.windows):
            x = Block(self.config, self.compute, window, self.cross, name=f"block_{i}")(x, inputs)
        return x, None


_REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Stack(nn.Module):
    """All blocks of an encoder or a decoder.

    Parameters of like blocks are stacked on a leading axis `layers`, whether the loop over them is compiled as a loop
    or unrolled, so a checkpoint does not depend on how it was computed. Where the window pattern does not divide the
    number of layers, the remaining blocks form a second, shorter stack.

    Attributes:
      config: the model.
      compute: how it is computed.
      num_layers: blocks.
      cross: whether the blocks read an encoder.
    """

    config: ModelConfig
    compute: ComputeConfig
    num_layers: int
    cross: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, inputs: BlockInputs) -> jax.Array:
        pattern = self.config.windows or (0,)
        groups, rest = divmod(self.num_layers, len(pattern))
        if groups:
            x = self._scanned("layers", groups, pattern)(x, inputs)[0]
        if rest:
            x = self._scanned("last_layers", 1, pattern[:rest])(x, inputs)[0]
        return x

    def _scanned(self, name: str, groups: int, windows: Sequence[int]) -> nn.Module:
        body = _Group
        if self.compute.remat != "none":
            body = nn.remat(body, prevent_cse=not self.compute.scan_layers, policy=_REMAT_POLICIES[self.compute.remat])
        scanned = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=groups,
            unroll=1 if self.compute.scan_layers else groups,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(self.config, self.compute, tuple(windows), self.cross, name=name)
