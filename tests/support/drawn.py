"""Parameters drawn on the host, since compiling an initialization takes longer than the tests that need it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.model import abstract_parameters


def draw_parameters(model: Any, seed: int = 0, spread: float = 0.3):
    """Normal numbers of this standard deviation for every parameter, around 1 for the scales of norms.

    Biases are drawn too: one that is forgotten, or added twice, would not show at zero.
    """
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        offset = 1.0 if path[-1].key == "scale" and not model.config.norm_offset else 0.0
        return jnp.asarray(offset + spread * generator.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_parameters(model)[0])
