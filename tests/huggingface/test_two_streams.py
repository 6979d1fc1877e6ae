"""XLNet's two-stream attention: the query stream is torch's, and sees only what its order allows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from huggingface.reference_models import CASES, make, save

from jaxft.huggingface.loaded import load_model
from jaxft.models.transformer import Sequences

LENGTH = 7


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Torch's model and ours."""
    directory = tmp_path_factory.mktemp("xlnet")
    theirs = make(CASES["xlnet"])
    save(theirs, directory)
    return theirs, load_model(directory)


@pytest.fixture(scope="module")
def batch():
    """Token ids, types and an order of prediction."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(5, 67, (2, LENGTH)).astype(np.int32)
    types = (np.arange(LENGTH) > 3).astype(np.int32) * np.ones((2, 1), np.int32)
    return token_ids, types, np.stack([rng.permutation(LENGTH) for _ in range(2)]).astype(np.int32)


def run(loaded, token_ids, types, order, gather=None):
    sequences = Sequences(jnp.asarray(token_ids), token_types=jnp.asarray(types), order=jnp.asarray(order))
    return loaded.model.apply({"params": loaded.params}, sequences, head="permutation_lm", gather=gather).logits


def test_the_query_stream_is_that_of_torch(pair, batch):
    theirs, loaded = pair
    token_ids, types, order = batch
    hidden = torch.from_numpy((order[:, None, :] >= order[:, :, None]).astype(np.float32))
    targets = torch.eye(LENGTH).expand(2, LENGTH, LENGTH)
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(token_ids).long(),
            token_type_ids=torch.from_numpy(types).long(),
            perm_mask=hidden,
            target_mapping=targets,
        ).logits
    # The first of the order sees nothing: torch then averages over all tokens, which leaks, ours over none.
    sees = (order > 0)[..., None]
    np.testing.assert_allclose(run(loaded, token_ids, types, order) * sees, expected.numpy() * sees, atol=1e-4)


def test_a_query_sees_the_content_of_lower_ranks_alone(pair, batch):
    _, loaded = pair
    token_ids, types, order = batch

    def influence(place):
        changed = token_ids.copy()
        changed[:, place] = (changed[:, place] + 1 - 5) % 60 + 5
        moved = jnp.abs(run(loaded, changed, types, order) - run(loaded, token_ids, types, order)).max(-1)
        return np.asarray(moved)

    for place in range(LENGTH):
        moved = influence(place)
        sees = order[:, place][:, None] < order
        assert (moved[~sees] == 0).all()
        assert (moved[sees] > 0).all()


def test_an_order_is_refused_where_positions_cannot_express_it(tmp_path):
    save(make(CASES["bert-masked-lm"]), tmp_path)
    loaded = load_model(tmp_path)
    tokens = jnp.ones((1, 3), jnp.int32)
    with pytest.raises(ValueError, match="transformer_xl"):
        jax.eval_shape(lambda: loaded.model.apply({"params": loaded.params}, Sequences(tokens, order=tokens)))
