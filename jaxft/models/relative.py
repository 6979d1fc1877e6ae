"""Attention scores between content and relative positions: DeBERTa's and Transformer-XL's."""

from __future__ import annotations

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxft.kernels.projection import project
from jaxft.kernels.shapes import Array, Keys, OfTokens, Queries
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Embedding, Linear, Norm, partitioned
from jaxft.parallel.sharding import constrain

# Names of the logical axes of a vector per head.
_PER_HEAD = ("heads", "head_dim")


class RelativePositions(flax.struct.PyTreeNode):
    """What attention needs to know of distances.

    Attributes:
      vectors: float `(rows, embed)`: a vector for each distance.
      rows: int32 `(batch, query_length, key_length)`: which of the vectors belongs to a query and a key.
      same_type: bool of the same shape: whether query and key have the same token type; None where types do not count.
    """

    vectors: Float[Array, "rows embed"]
    rows: Int[Array, "batch query_length key_length"]
    same_type: Bool[Array, "batch query_length key_length"] | None = None


class DisentangledPositions(nn.Module):
    """DeBERTa's relative positions: a learned, normed table by log-bucketed distance (He et al. 2021)."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, positions: OfTokens) -> RelativePositions:
        """Of each query to each key of `positions`, int32 `(batch, length)`."""
        config = self.config
        buckets = config.relative_buckets
        table = Embedding(2 * buckets, config.embed_dim, "buckets", config.initializer_range, name="table")
        dtype = jnp.dtype(self.compute.precision)
        vectors = Norm("layernorm", config.norm_epsilon, dtype=dtype, name="norm")(table(jnp.arange(2 * buckets)))
        distance = positions[:, :, None] - positions[:, None, :]
        bucket = _log_bucket(distance, buckets, config.relative_max_distance)
        return RelativePositions(vectors, jnp.clip(bucket + buckets, 0, 2 * buckets - 1))


def _log_bucket(distance: Int[Array, "*shape"], buckets: int, max_distance: int) -> Int[Array, "*shape"]:
    """Distances up to half of the buckets as they are, larger ones on a logarithmic scale; odd in `distance`."""
    middle = buckets // 2
    size = jnp.maximum(jnp.abs(distance), middle)
    stretch = (middle - 1) / math.log((max_distance - 1) / middle)
    far = jnp.ceil(jnp.log(size.astype(jnp.float32) / middle) * stretch).astype(jnp.int32) + middle
    return jnp.where(jnp.abs(distance) <= middle, distance, far * jnp.sign(distance))


def disentangled_bias(
    query: Queries, key: Keys, relative: RelativePositions, query_projection: Linear, key_projection: Linear
) -> Float[Array, "batch heads query_length key_length"]:
    """Scores of content to position and of position to content.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      key: `(batch, key_length, heads, head_dim)`.
      relative: distances.
      query_projection: that of the content, which positions share.
      key_projection: likewise.

    Returns:
      float32 `(batch, heads, query_length, key_length)`, not scaled.
    """
    position_key, position_query = key_projection(relative.vectors), query_projection(relative.vectors)
    rows = relative.rows[:, None]
    to_position = jnp.einsum("bqhd,rhd->bhqr", query, position_key, preferred_element_type=jnp.float32)
    from_position = jnp.einsum("bkhd,rhd->bhkr", key, position_query, preferred_element_type=jnp.float32)
    from_position = jnp.take_along_axis(from_position, rows.swapaxes(2, 3), axis=3).swapaxes(2, 3)
    return jnp.take_along_axis(to_position, rows, axis=3) + from_position


def transformer_xl_positions(
    positions: OfTokens, token_types: OfTokens | None, features: int, streams: int = 1
) -> RelativePositions:
    """Waves of the distance from key to query (Dai et al. 2019, as in XLNet, Yang et al. 2019).

    Args:
      positions: int32 `(batch, length)`.
      token_types: int32 `(batch, length)`, or None.
      features: width of a vector.
      streams: how many times the queries follow each other, as in two-stream attention.
    """
    length = positions.shape[1]
    distances = jnp.arange(-length + 1, length, dtype=jnp.float32)
    angles = distances[:, None] * (10000.0 ** (-jnp.arange(0, features, 2) / features))
    vectors = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[:, :features]

    def of_queries(x: jax.Array) -> jax.Array:
        return jnp.tile(x, (1, streams))[:, :, None]

    # Tokens of different packed segments may be further apart than any row; they do not see each other.
    rows = jnp.clip(of_queries(positions) - positions[:, None, :] + length - 1, 0, 2 * length - 2)
    same = None if token_types is None else of_queries(token_types) == token_types[:, None, :]
    return RelativePositions(vectors, rows, same)


class TransformerXLBias(nn.Module):
    """Scores of content to position and to token type, with a learned bias of each kind."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(
        self, query: Queries, relative: RelativePositions
    ) -> tuple[Queries, Float[Array, "batch heads query_length key_length"]]:
        """The query for the content's scores, and a bias for them, float32, not scaled.

        Args:
          query: `(batch, query_length, heads, head_dim)`.
          relative: distances and types.
        """
        config, dtype = self.config, query.dtype
        shape = (config.num_heads, config.width_of_head)
        kernel = self._parameter("kernel", (config.embed_dim, *shape), ("embed", *_PER_HEAD))
        position_key = project(relative.vectors.astype(dtype), kernel, 1, dtype)
        toward_position = query + self._parameter("position_bias", shape, _PER_HEAD).astype(dtype)
        bias = jnp.einsum("bqhd,rhd->bhqr", toward_position, position_key, preferred_element_type=jnp.float32)
        bias = jnp.take_along_axis(bias, relative.rows[:, None], axis=3)
        types = self._parameter("types", (2, *shape), ("token_type", *_PER_HEAD)).astype(dtype)
        toward_type = query + self._parameter("type_bias", shape, _PER_HEAD).astype(dtype)
        if relative.same_type is not None:
            of_type = jnp.einsum("bqhd,thd->bhqt", toward_type, types, preferred_element_type=jnp.float32)
            bias = bias + jnp.where(relative.same_type[:, None], of_type[..., :1], of_type[..., 1:])
        query = query + self._parameter("content_bias", shape, _PER_HEAD).astype(dtype)
        return constrain(query, "batch", "length", "heads", "head_dim"), bias

    def _parameter(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        initializer = partitioned(nn.initializers.normal(self.config.initializer_range), axes)
        return self.param(name, initializer, shape, jnp.float32)
