"""Attention on TPUs by splash, the block-sparse flash attention that comes with JAX.

Blocks that a mask hides whole are skipped, and scores never leave the chip. Where devices share the length (mesh axis
`context`), each has its part of the queries and gathers all keys and values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int, Shaped

from jaxft.kernels.masks import AttentionMask, balanced_order
from jaxft.kernels.shapes import Array, Keys, OfTokens, Queries
from jaxft.kernels.splash_tiles import Tiles, computed_tiles
from jaxft.parallel.platform import target_platform
from jaxft.parallel.sharding import RULES, on_each_device, parts_of, spec_of

# What the kernel keeps for its backward pass has this name, by which rematerialization may save it.
RESIDUALS = "attention"
# Sides of the tiles that scores are computed in, in queries and keys alike.
_TILES = (512, 384, 256, 128)
_SMALLEST_TILE = _TILES[-1]


def splash(
    query: Queries, key: Keys, value: Keys, mask: AttentionMask, scale: float, soft_cap: float | None
) -> Queries:
    """Attention under a mask that is full, causal or a window, with or without segments.

    Elsewhere than on TPUs the kernel is interpreted, which is slow and meant for tests.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      key: `(batch, key_length, kv_heads, head_dim)`.
      value: as `key`.
      mask: without bias, prefix, order and positions.
      scale: factor of the scores.
      soft_cap: of the scores, or None.

    Returns:
      As `query`.
    """
    length, dtype = query.shape[1], query.dtype
    padding_sees_itself = mask.query_segments is not None and (mask.causal or mask.window is not None)
    if padding_sees_itself:
        assert mask.key_segments is not None  # given with those of the queries
        # And finds nothing: there are fewer values than outputs, which would have to be read and written for it.
        value = jnp.where((mask.key_segments > 0)[..., None, None], value, 0)
    query = (query.astype(jnp.float32) * scale).astype(dtype)
    devices = parts_of("length")
    queries, keys = _Side(query, mask.query_segments), _Side(key, mask.key_segments)
    queries, keys, value = queries.filled(devices), keys.filled(devices), _Side(value).filled(devices).vectors
    if keys.segments is not None and queries.segments is None:  # rows were filled up on one side alone
        queries = queries.with_segments()
    if queries.segments is not None and keys.segments is None:
        keys = keys.with_segments()
    groups = _groups(queries.vectors.shape, keys.vectors.shape[2])
    kernel, tiles = _kernel(queries.vectors.shape, keys.vectors.shape[1], mask, soft_cap, groups)
    heads = spec_of(("batch", "length", "heads", "head_dim"))
    kv_heads, tokens = spec_of(("batch", "length", "kv_heads", "head_dim")), spec_of(("batch", "length"))
    attend = on_each_device(
        functools.partial(_attend_to_all, devices=devices, balanced=mask.balanced, groups=groups, name=tiles.name),
        (_kernel_specs(kernel, mask), heads, kv_heads, kv_heads, tokens, tokens),
        heads,
    )
    output = attend(kernel, queries.vectors, keys.vectors, value, queries.segments, keys.segments)[:, :length]
    sees = None if padding_sees_itself else mask.sees_any()
    return output if sees is None else jnp.where(sees[..., None, None], output, 0)


@dataclasses.dataclass(frozen=True)
class _Side:
    """Queries, keys or values `(batch, length, heads, head_dim)`, and their segments `(batch, length)` or None."""

    vectors: Float[Array, "batch length heads head_dim"]
    segments: OfTokens | None = None

    def with_segments(self) -> _Side:
        """All in one segment where there were none."""
        if self.segments is not None:
            return self
        return _Side(self.vectors, jnp.ones(self.vectors.shape[:2], jnp.int32))

    def filled(self, devices: int) -> _Side:
        """As long as whole tiles are, with padding."""
        missing = -self.vectors.shape[1] % (devices * _SMALLEST_TILE)
        if not missing:
            return self
        side = self.with_segments()
        assert side.segments is not None
        vectors = jnp.pad(side.vectors, ((0, 0), (0, missing), (0, 0), (0, 0)))
        return _Side(vectors, jnp.pad(side.segments, ((0, 0), (0, missing))))


def _attend_to_all(
    kernel: Callable[..., jax.Array],
    query: Queries,
    key: Keys,
    value: Keys,
    query_segments: Int[Array, "batch query_length"] | None,
    key_segments: Int[Array, "batch key_length"] | None,
    *,
    devices: int,
    balanced: int,
    groups: int,
    name: str,
) -> Queries:
    """What the queries of a device find in the keys and values of all devices that share the length."""
    if devices > 1:
        gather = functools.partial(_gathered, balanced=balanced)
        key, value = gather(key), gather(value)
        key_segments = None if key_segments is None else gather(key_segments)
    rows, _, heads, _ = query.shape
    query, key, value = (_grouped(jnp.swapaxes(x, 1, 2), groups) for x in (query, key, value))
    with jax.named_scope(name):
        if query_segments is None:
            output = jax.vmap(kernel)(query, key, value)
        else:
            assert key_segments is not None  # given with those of the queries
            segments = (jnp.repeat(one, groups, axis=0) for one in (query_segments, key_segments))
            output = jax.vmap(kernel)(query, key, value, splash_attention_kernel.SegmentIds(*segments))
    return jnp.swapaxes(output.reshape(rows, heads, *output.shape[2:]), 1, 2)


def _grouped(x: Float[Array, "rows heads length head_dim"], groups: int) -> Float[Array, "_ _ length head_dim"]:
    """The heads of each row `(rows, heads, length, head_dim)` in groups: `(rows * groups, heads / groups, ...)`."""
    rows, heads, *rest = x.shape
    return x.reshape(rows * groups, heads // groups, *rest)


def _gathered(x: Shaped[Array, "batch _ *rest"], balanced: int) -> Shaped[Array, "batch _ *rest"]:
    """All of the length `(batch, length, ...)`, in the order of the sequence."""
    x = jax.lax.all_gather(x, RULES["length"], axis=1, tiled=True)
    if balanced == 1:
        return x
    parts = jnp.split(x, 2 * balanced, axis=1)
    return jnp.concatenate([*parts[::2], *parts[::-2]], axis=1)


def _groups(query_shape: tuple[int, ...], kv_heads: int) -> int:
    """In how many groups the heads of a row are computed as if they were rows.

    Chips of two cores share out rows; of the heads of a single row the backward kernels would use one core alone.
    """
    rows, _, heads, _ = query_shape
    single = rows == parts_of("batch")
    return 2 if single and all(count // parts_of("heads") % 2 == 0 for count in (heads, kv_heads)) else 1


def _kernel(
    query_shape: tuple[int, ...], key_length: int, mask: AttentionMask, soft_cap: float | None, groups: int
) -> tuple[splash_attention_kernel.SplashAttentionKernel, Tiles]:
    """The kernel for a group of the heads of one device, and the queries of all; the tiles that it computes."""
    _, query_length, heads, _ = query_shape
    devices = parts_of("length")
    queries, keys = _tile(query_length // devices), _tile(key_length)
    left, right = mask.window or (None, None)
    window = left, 0 if mask.causal else right
    tiles = computed_tiles(balanced_order(query_length, mask.balanced), key_length, (queries, keys), devices, window)
    visible: splash_attention_mask.FullMask | splash_attention_mask.CausalMask | splash_attention_mask.LocalMask
    if mask.window is None and not mask.causal:
        # The same for the queries of each device, which tables of other masks are split by.
        visible, devices = splash_attention_mask.FullMask((query_length // devices, key_length)), 1
    else:
        shape = query_length, key_length
        if mask.window is None:
            visible = splash_attention_mask.CausalMask(shape)
        else:
            visible = splash_attention_mask.LocalMask(shape, window, 0)
        if mask.balanced > 1:
            visible.q_sequence = balanced_order(query_length, mask.balanced)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([visible] * (heads // parts_of("heads") // groups)),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=queries,
            block_kv=keys,
            block_kv_compute=keys,
            block_q_dkv=queries,
            block_kv_dkv=keys,
            block_kv_dkv_compute=keys,
            block_q_dq=queries,
            block_kv_dq=keys,
        ),
        head_shards=1,
        q_seq_shards=devices,
        attn_logits_soft_cap=soft_cap,
        residual_checkpoint_name=RESIDUALS,
        interpret=target_platform() != "tpu",
    )
    return kernel, tiles


def _tile(length: int) -> int:
    """The largest tile that divides a multiple of the smallest."""
    return next(size for size in _TILES if length % size == 0)


def _kernel_specs(kernel: splash_attention_kernel.SplashAttentionKernel, mask: AttentionMask) -> Any:
    """How the tables of a kernel, by blocks of queries, are split: as the queries are."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    length = None if mask.window is None and not mask.causal else RULES["length"]
    return kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, length)))
