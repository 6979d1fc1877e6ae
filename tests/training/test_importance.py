"""The diagonal Fisher information, against gradients of single rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from support.drawn import draw_parameters
from support.small_tuning import by_name
from support.two_heads import make_batches, objectives, small_model

from jaxft.training.importance import fisher_information
from jaxft.training.step import bind


@pytest.fixture(scope="module")
def model():
    return small_model()


def test_it_is_the_mean_squared_gradient_of_rows_made_one_in_the_mean(model):
    parameters, objective = draw_parameters(model), objectives()["replay"]
    batches = [make_batches(seed)["replay"] for seed in range(2)]
    found = fisher_information(lambda own: bind(model, own), objective, parameters, batches)

    @jax.jit
    def gradient(row):
        def mean_loss(parameters):
            part = objective.loss(bind(model, parameters), row)
            return part.loss / part.weight

        return jax.grad(mean_loss)(parameters)

    squares = []
    for batch in batches:
        for i in range(len(batch["row_weight"])):
            if batch["label_weights"][i].any():
                row = {name: array[i : i + 1] for name, array in batch.items()}
                squares.append(jax.tree.map(lambda g: np.square(np.asarray(g, np.float64)), gradient(row)))
    total = jax.tree.map(lambda *leaves: sum(leaves), *squares)
    mean = sum(leaf.sum() for leaf in jax.tree.leaves(total)) / sum(leaf.size for leaf in jax.tree.leaves(total))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(one, two / mean, rtol=2e-3, atol=1e-6)


def test_what_another_stream_trains_does_not_matter_to_this_one(model):
    found = fisher_information(
        lambda own: bind(model, own), objectives()["replay"], draw_parameters(model), [make_batches(0)["replay"]]
    )
    named = by_name(model, found)
    assert not any(named[name].any() for name in named if name.startswith("head_task/"))
    assert named["head_masked_lm/transform/kernel"].any() and named["trunk/embeddings/tokens/table"].any()
