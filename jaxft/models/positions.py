"""How positions enter a model: rotations, biases and fixed waves."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def rotary_angles(positions: jax.Array, rotary_dim: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary positions (Su et al. 2021, arXiv 2104.09864).

    Args:
      positions: int32 `(batch, length)`.
      rotary_dim: rotated dimensions of a head, even.
      base: wavelength base.

    Returns:
      Two float32 arrays `(batch, length, 1, rotary_dim // 2)`.
    """
    # On the host and in float64, so that every program uses the same frequencies.
    frequencies = np.asarray(base ** (-np.arange(0, rotary_dim, 2) / rotary_dim), np.float32)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the leading dimensions of each head, as two halves (the order of Hugging Face's Llama).

    Args:
      x: `(batch, length, heads, head_dim)`.
      angles: as `rotary_angles` gives them.
    """
    cosine, sine = angles
    half = cosine.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), rest], axis=-1)


def sinusoidal_table(length: int, features: int) -> np.ndarray:
    """Fixed waves of Vaswani et al. 2017, sines in the first half and cosines in the second; float32."""
    frequencies = 10000.0 ** (-np.arange(0, features, 2) / features)
    angles = np.arange(length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :features].astype(np.float32)


def alibi_bias(positions: jax.Array, key_positions: jax.Array, heads: int) -> jax.Array:
    """Penalties that grow with distance, a slope per head (Press et al. 2021, arXiv 2108.12409).

    Returns:
      float32 `(batch, heads, query_length, key_length)`.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    distance = jnp.abs(positions[:, None, :, None] - key_positions[:, None, None, :]).astype(jnp.float32)
    return -distance * jnp.asarray(slopes, jnp.float32)[None, :, None, None]


class RelativeBias(nn.Module):
    """A learned bias per head and bucket of distance (T5, Raffel et al. 2020, arXiv 1910.10683).

    Attributes:
      heads: query heads.
      buckets: number of buckets; bidirectional ones use half for each direction.
      max_distance: distances from here on share the last bucket.
      bidirectional: whether keys after the query have buckets of their own.
    """

    heads: int
    buckets: int
    max_distance: int
    bidirectional: bool
    initializer_range: float = 0.02

    @nn.compact
    def __call__(self, positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        initializer = nn.with_logical_partitioning(nn.initializers.normal(self.initializer_range), ("buckets", "heads"))
        table = self.param("table", initializer, (self.buckets, self.heads), jnp.float32)
        bucket = self._bucket(key_positions[:, None, :] - positions[:, :, None])
        return jnp.moveaxis(table[bucket], -1, 1)

    def _bucket(self, distance: jax.Array) -> jax.Array:
        buckets = self.buckets // 2 if self.bidirectional else self.buckets
        offset = jnp.where(distance > 0, buckets, 0) if self.bidirectional else 0
        distance = jnp.abs(distance) if self.bidirectional else jnp.maximum(-distance, 0)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
        return offset + jnp.where(distance < exact, distance, far)
