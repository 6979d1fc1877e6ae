"""Annotations of shapes are checked: an array that broadcasting would let pass is refused, compiled or not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from jaxft.kernels.cross_entropy import weighted_sums
from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.plain import xla
from jaxft.models.heads import pool
from jaxft.models.layers import Embedding
from jaxft.models.positions import rotary_angles, rotate
from jaxft.training.start_divergence import divergence

LOGITS, LABELS = jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), jnp.int32)
HEADS = jnp.zeros((2, 3, 4, 8))
HIDDEN = jnp.zeros((2, 3, 8))


def embedded(ids):
    layer = Embedding(5, 8, "vocab")
    return layer.init_with_output(jax.random.key(0), ids)[0]


CALLS = {
    "weights of one token": (weighted_sums, (LOGITS, LABELS, jnp.ones((2, 1))), (LOGITS, LABELS, jnp.ones((2, 3)))),
    "positions of one token": (
        lambda x, positions: rotate(x, rotary_angles(positions, 8, 1e4)),
        (HEADS, jnp.zeros((2, 1), jnp.int32)),
        (HEADS, LABELS),
    ),
    "segments of one token": (
        lambda x, segments: pool(x, segments, "mean"),
        (HIDDEN, jnp.ones((2, 1), jnp.int32)),
        (HIDDEN, jnp.ones((2, 3), jnp.int32)),
    ),
    "predictions of one token": (divergence, (LOGITS, LOGITS[:, :1]), (LOGITS, LOGITS)),
    "ids that are no integers": (embedded, (jnp.zeros((2, 3), bool),), (LABELS,)),
    "values of one row": (
        lambda query, value: xla(query, query, value, AttentionMask(), 1.0),
        (HEADS, HEADS[:1]),
        (HEADS, HEADS),
    ),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["as it is", "compiled"])
@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_of_the_shape_is_refused(call, compiled):
    function, wrong, right = CALLS[call]
    function = jax.jit(function) if compiled else function
    function(*right)
    with pytest.raises(TypeCheckError):
        function(*wrong)


def test_shapes_are_those_within_a_mapped_function():
    assert jax.vmap(weighted_sums)(LOGITS, LABELS, jnp.ones((2, 3)))[0].shape == (2,)
    with pytest.raises(TypeCheckError):
        jax.vmap(weighted_sums)(LOGITS, LABELS, jnp.ones((2, 1)))
