"""A description of a mask says the same as its definition in words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxft.kernels.masks import AttentionMask

QUERIES = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 3, 3, 3]], np.int32)
KEYS = np.array([[1, 1, 2, 2, 2, 2, 0, 0, 3], [1, 2, 2, 3, 3, 3, 0, 0, 0]], np.int32)


def sees(mask: AttentionMask, row: int, query: int, key: int) -> bool:
    """Whether one query sees one key, from the words of the contract."""
    if mask.causal and key > query and not (mask.prefix is not None and mask.prefix[row, key]):
        return False
    if mask.window is not None and not query - mask.window[0] <= key <= query + mask.window[1]:
        return False
    if mask.query_segments is None:
        return True
    segment = mask.query_segments[row, query]
    return bool(segment == mask.key_segments[row, key] and segment != 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, (0, 0), (2, 1), (20, 0)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_dense_is_the_contract_for_every_pair(causal, window, packed, with_prefix):
    prefix = np.random.default_rng(0).random(KEYS.shape) < 0.4 if with_prefix else None
    segments = {"query_segments": QUERIES, "key_segments": KEYS} if packed else {}
    mask = AttentionMask(causal=causal, window=window, prefix=prefix, **segments)
    shape = (2, 1, QUERIES.shape[1], KEYS.shape[1])
    wanted = np.zeros(shape, bool)
    for row, query, key in itertools.product(range(2), range(shape[2]), range(shape[3])):
        wanted[row, 0, query, key] = sees(mask, row, query, key)
    dense = mask.dense(*shape[2:])
    if dense is None:
        assert wanted.all()
    else:
        np.testing.assert_array_equal(np.broadcast_to(dense, shape), wanted)


def test_no_mask_is_built_where_all_is_visible():
    assert AttentionMask().dense(8, 8) is None
    assert AttentionMask(bias=np.zeros((1, 1, 8, 8), np.float32)).dense(8, 8) is None
