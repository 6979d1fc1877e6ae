"""Shuffling by formula: a permutation of any size that is computed, not stored."""

from __future__ import annotations

import numpy as np

_ROUNDS = 6


def permute(indices: np.ndarray, size: int, seed: tuple[int, ...]) -> np.ndarray:
    """Where a pseudo-random permutation of `range(size)` sends `indices`.

    A balanced Feistel network over the next even power of two, walked along its cycle until the value falls below
    `size` (Black and Rogaway 2002): constant time and memory per index, whatever the size.

    Args:
      indices: int64, any shape, each in `[0, size)`.
      size: number of elements that are permuted.
      seed: non-negative numbers; others give another permutation.

    Returns:
      int64 of the same shape, each in `[0, size)`.
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence((*seed, size)).generate_state(_ROUNDS, np.uint64)
    values = np.asarray(indices).astype(np.uint64)
    values = _feistel(values, half_bits, keys)
    while (outside := values >= size).any():
        values = np.where(outside, _feistel(values, half_bits, keys), values)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    mask = np.uint64(2**half_bits - 1)
    shift = np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014), with wrapping products."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
