"""Kernels in eight or four bits, block by block, and back."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from scipy import stats

from jaxft.kernels.shapes import Array

Format = Literal["int8", "nf4"]
BLOCK = 64


class Quantized(NamedTuple):
    """A kernel of `size` numbers in blocks of `BLOCK`.

    Attributes:
      codes: uint8 `(blocks, BLOCK)` of eight bits, or `(blocks, BLOCK / 2)` with two of four bits in each.
      scales: float32 `(blocks,)`: the largest absolute value of each block.
    """

    codes: UInt8[Array, "blocks codes"]
    scales: Float[Array, " blocks"]


def _normal_float_levels() -> Float[np.ndarray, "16"]:
    """The 16 levels of NF4: quantiles of a normal distribution, made to span [-1, 1] with 0 among them
    (Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""
    outermost = 0.9677083
    above = stats.norm.ppf(np.linspace(outermost, 0.5, 9))[:-1]
    below = -stats.norm.ppf(np.linspace(outermost, 0.5, 8))[:-1]
    levels = np.sort(np.concatenate([above, [0.0], below]))
    return (levels / levels.max()).astype(np.float32)


NF4_LEVELS = _normal_float_levels()


def shapes_of(size: int, form: Format) -> tuple[tuple[int, int], tuple[int]]:
    """Shapes of codes and scales of so many numbers."""
    blocks = -(-size // BLOCK)
    return (blocks, BLOCK if form == "int8" else BLOCK // 2), (blocks,)


def quantize(kernel: Float[Array, "..."], form: Format) -> Quantized:
    """The nearest levels of a kernel of any shape, float32."""
    flat = jnp.ravel(kernel)
    blocks = jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    scales = jnp.maximum(jnp.abs(blocks).max(1), 1e-30)
    unit = blocks / scales[:, None]
    if form == "int8":
        return Quantized((jnp.round(unit * 127) + 128).astype(jnp.uint8), scales)
    middles = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
    codes = jnp.searchsorted(jnp.asarray(middles), unit).astype(jnp.uint8)
    return Quantized(codes[:, ::2] * 16 + codes[:, 1::2], scales)


def dequantize(quantized: Quantized, shape: tuple[int, ...], form: Format) -> Float[Array, "..."]:
    """The kernel of this shape, float32."""
    codes = quantized.codes
    if form == "int8":
        unit = (codes.astype(jnp.float32) - 128) / 127
    else:
        pairs = jnp.stack([codes >> 4, codes & 15], axis=-1).reshape(codes.shape[0], BLOCK)
        unit = jnp.asarray(NF4_LEVELS)[pairs]
    return (unit * quantized.scales[:, None]).reshape(-1)[: int(np.prod(shape))].reshape(shape)
