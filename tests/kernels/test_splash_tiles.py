"""The tiles that a mask leaves are those that splash's own tables say, and their name is read again."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask, splash_attention_mask_info

from jaxft.kernels.attention import attention
from jaxft.kernels.masks import AttentionMask, balanced_order
from jaxft.kernels.splash_tiles import Tiles, computed_tiles

LENGTH, TILES = 2048, (128, 256)


def in_tables(visible: splash_attention_mask.Mask, devices: int) -> float:
    """Tiles of a device that splash itself would compute, in the mean."""
    heads = splash_attention_mask.MultiHeadMask([visible])
    tables, _ = splash_attention_mask_info.process_mask(heads, TILES, q_seq_shards=devices)
    return np.count_nonzero(tables.block_mask) / devices


@pytest.mark.parametrize(
    ("window", "devices"),
    [
        ((None, None), 1), ((None, 0), 1), ((None, 0), 4), ((100, 100), 1), ((128, 0), 1), ((0, 0), 2), ((300, 40), 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("balanced", [False, True])
def test_tiles_are_those_that_the_kernel_computes(window, devices, balanced):
    shape, order = (LENGTH, LENGTH), balanced_order(LENGTH, devices if balanced else 1)
    if window == (None, None):
        visible = splash_attention_mask.FullMask(shape)
    elif window == (None, 0):
        visible = splash_attention_mask.CausalMask(shape)
    else:
        visible = splash_attention_mask.LocalMask(shape, window, 0)
    if window != (None, None):
        visible.q_sequence = order
    found = computed_tiles(order, LENGTH, TILES, devices, window)
    assert found.computed == np.ceil(in_tables(visible, devices))


def test_a_causal_mask_leaves_the_tiles_below_its_diagonal():
    found = computed_tiles(np.arange(2048), 2048, (512, 512), 1, (None, 0))
    assert found == Tiles(10, 512, 512)  # 1 + 2 + 3 + 4
    name = f"jit(step)/transpose(jvp(model))/{found.name}/vmap(jit(_splash_attention))/splash_mha_dq"
    assert Tiles.named_in(name) == found
    assert Tiles.named_in("jit(step)/splash_mha_dq") is None


def test_heads_of_a_single_row_are_computed_in_groups_to_the_same_end():
    draw = np.random.default_rng(0).normal
    query, key, value = (jnp.asarray(draw(size=(2, 128, heads, 16)), jnp.float32) for heads in (4, 2, 2))
    segments = jnp.asarray(np.repeat([[1, 2], [1, 1]], 64, axis=1))
    mask = AttentionMask(causal=True, query_segments=segments, key_segments=segments)

    def found(rows: slice):
        one = mask.replace(query_segments=segments[rows], key_segments=segments[rows])
        return attention(query[rows], key[rows], value[rows], one, scale=0.25, implementation="splash")

    together = found(slice(0, 2))
    alone = jnp.concatenate([found(slice(0, 1)), found(slice(1, 2))])
    np.testing.assert_allclose(alone, together, atol=1e-6)
