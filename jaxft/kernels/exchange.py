"""Laying tokens out anew over the devices that share the length of sequences."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxft.kernels.shapes import Hidden
from jaxft.parallel.sharding import RULES, on_each_device, spec_of


def in_sequence(x: Hidden, devices: int) -> Hidden:
    """Vectors of tokens in `jaxft.kernels.masks.balanced_order` in the order of their sequence.

    Args:
      x: `(batch, length, embed)`.
      devices: that share the length; 1 where nothing is to be done.

    Returns:
      As `x`.
    """
    if devices == 1:
        return x
    spec = spec_of(("batch", "length", "features"))
    return on_each_device(functools.partial(_exchanged, devices=devices), (spec,), spec)(x)


def _exchanged(x: Hidden, *, devices: int) -> Hidden:
    """The two neighbouring parts of a device, from the part of the front and that of the back that each device has.

    Of each device's two parts one has an even number and one an odd one: all even parts travel at once, and all odd.
    """
    device = jax.lax.axis_index(RULES["length"])
    front, back = jnp.split(x, 2, axis=1)
    turned = device % 2 == 1
    even, odd = jnp.where(turned, back, front), jnp.where(turned, front, back)
    numbers = [(number, 2 * devices - 1 - number) for number in range(devices)]
    even = _sent(even, [(one if one % 2 == 0 else other) // 2 for one, other in numbers])
    odd = _sent(odd, [(one if one % 2 else other) // 2 for one, other in numbers])
    return jnp.concatenate([even, odd], axis=1)


def _sent(x: jax.Array, targets: list[int]) -> jax.Array:
    return jax.lax.ppermute(x, RULES["length"], list(enumerate(targets)))
