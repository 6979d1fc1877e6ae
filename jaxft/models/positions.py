"""How positions enter a model: rotations, biases and fixed waves."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxft.kernels.shapes import Array, OfTokens
from jaxft.models.config import RotaryScaling
from jaxft.models.layers import partitioned
from jaxft.parallel.platform import target_platform

OfHeads = Float[Array, "batch length heads head_dim"]
# Cosines or sines of rotary positions.
Angle = Float[Array, "#batch length 1 half"]
Angles = tuple[Angle, Angle]


def rotary_angles(positions: OfTokens, rotary_dim: int, base: float, scaling: RotaryScaling | None = None) -> Angles:
    """Cosines and sines of rotary positions (Su et al. 2021, arXiv 2104.09864).

    Args:
      positions: int32 `(batch, length)`.
      rotary_dim: rotated dimensions of a head, even.
      base: wavelength base.
      scaling: how to reach beyond the length of pretraining. `dynamic` and `longrope` look at the largest of the
        positions.

    Returns:
      Two float32 arrays `(batch, length, 1, rotary_dim // 2)`.
    """
    frequencies, factor = _frequencies(positions, rotary_dim, base, scaling)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def _frequencies(
    positions: OfTokens, rotary_dim: int, base: float, scaling: RotaryScaling | None
) -> tuple[Float[Array | np.ndarray, " half"], float]:
    """float32 `(rotary_dim // 2,)`, and the factor of cosines and sines."""
    # On the host and in float64, so that every program uses the same frequencies.
    exponents = np.arange(0, rotary_dim, 2) / rotary_dim
    plain = base**-exponents
    if scaling is None:
        return plain.astype(np.float32), 1.0
    given = scaling.attention_factor
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32), given or 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling).astype(np.float32), given or 1.0
    if scaling.kind == "yarn":
        own = 0.1 * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0
        return _yarn(plain, rotary_dim, base, scaling).astype(np.float32), own if given is None else given
    length = jnp.max(positions) + 1
    if scaling.kind == "dynamic":
        grown = jnp.maximum(length, scaling.original_length).astype(jnp.float32) / scaling.original_length
        stretch = (scaling.factor * grown - (scaling.factor - 1)) ** (rotary_dim / (rotary_dim - 2))
        return (base * stretch) ** -jnp.asarray(exponents, jnp.float32), given or 1.0
    short, long = (np.asarray(plain / np.asarray(f), np.float32) for f in (scaling.short_factors, scaling.long_factors))
    own = math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_length)) if scaling.factor > 1 else 1.0
    return jnp.where(length > scaling.original_length, long, short), own if given is None else given


def _llama3(plain: np.ndarray, scaling: RotaryScaling) -> np.ndarray:
    """Short waves kept, long ones stretched, those between in proportion (Llama 3.1)."""
    turns = scaling.original_length * plain / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(plain: np.ndarray, rotary_dim: int, base: float, scaling: RotaryScaling) -> np.ndarray:
    """A ramp over the dimensions between those that turn `beta_fast` and `beta_slow` times."""

    def dimension(turns: float) -> float:
        return rotary_dim * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    ramp = np.clip((np.arange(rotary_dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return plain * (1 - ramp) + plain / scaling.factor * ramp


def rotate(x: OfHeads, angles: Angles) -> OfHeads:
    """Turns the leading dimensions of each head, as two halves (the order of Hugging Face's Llama).

    Args:
      x: `(batch, length, heads, head_dim)`.
      angles: as `rotary_angles` gives them.
    """
    if target_platform() == "tpu" and x.dtype == jnp.bfloat16:
        return rotate_by_product(x, *angles)
    cosine, sine = angles
    half = cosine.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), rest], axis=-1)


@jax.custom_vjp
def rotate_by_product(x: OfHeads, cosine: Angle, sine: Angle) -> OfHeads:
    """As `rotate`, the halves exchanged by a product with ones and minus ones, which is exact for bfloat16.

    The vectors of a TPU are 128 wide: halves of heads fill a quarter of them, and cutting and joining them took longer
    than a projection.

    Args:
      x: `(batch, length, heads, head_dim)`.
      cosine: as `rotary_angles` gives it.
      sine: the same.
    """
    half, rest = cosine.shape[-1], x.shape[-1] - 2 * cosine.shape[-1]
    exchange = np.zeros((x.shape[-1], x.shape[-1]), np.float32)
    exchange[:half, half : 2 * half] = np.eye(half)
    exchange[half : 2 * half, :half] = -np.eye(half)
    # One for each head, as products with a batch are not what the remat policy `dots` saves.
    exchanges = jnp.broadcast_to(jnp.asarray(exchange, x.dtype), (x.shape[2], *exchange.shape))
    exchanged = jnp.einsum("blhd,hde->blhe", x, exchanges, preferred_element_type=jnp.float32)
    cosines = jnp.concatenate([cosine, cosine, jnp.ones((*cosine.shape[:-1], rest), cosine.dtype)], axis=-1)
    sines = jnp.concatenate([sine, sine, jnp.zeros((*sine.shape[:-1], rest), sine.dtype)], axis=-1)
    return (x * cosines + exchanged * sines).astype(x.dtype)


def _rotate_by_product_forward(x: OfHeads, cosine: Angle, sine: Angle) -> tuple[OfHeads, Angles]:
    return rotate_by_product(x, cosine, sine), (cosine, sine)


def _rotate_by_product_backward(angles: Angles, gradient: OfHeads) -> tuple[OfHeads, Angle, Angle]:
    cosine, sine = angles
    return rotate_by_product(gradient, cosine, -sine), jnp.zeros_like(cosine), jnp.zeros_like(sine)


rotate_by_product.defvjp(_rotate_by_product_forward, _rotate_by_product_backward)


def sinusoidal_table(length: int, features: int) -> Float[np.ndarray, "{length} {features}"]:
    """Fixed waves of Vaswani et al. 2017, sines in the first half and cosines in the second; float32."""
    frequencies = 10000.0 ** (-np.arange(0, features, 2) / features)
    angles = np.arange(length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :features].astype(np.float32)


def alibi_bias(
    positions: Int[Array, "batch query_length"], key_positions: Int[Array, "batch key_length"], heads: int
) -> Float[Array, "batch {heads} query_length key_length"]:
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
    def __call__(
        self, positions: Int[Array, "batch query_length"], key_positions: Int[Array, "batch key_length"]
    ) -> Float[Array, "batch {self.heads} query_length key_length"]:
        initializer = partitioned(nn.initializers.normal(self.initializer_range), ("buckets", "heads"))
        table = self.param("table", initializer, (self.buckets, self.heads), jnp.float32)
        bucket = self._bucket(key_positions[:, None, :] - positions[:, :, None])
        return jnp.moveaxis(table[bucket], -1, 1)

    def _bucket(self, distance: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        buckets = self.buckets // 2 if self.bidirectional else self.buckets
        offset = jnp.where(distance > 0, buckets, 0) if self.bidirectional else 0
        distance = jnp.abs(distance) if self.bidirectional else jnp.maximum(-distance, 0)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
        return offset + jnp.where(distance < exact, distance, far)
