"""Cross entropy is torch's, in float32 whatever the logits are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxft.kernels.cross_entropy import cross_entropy, cross_entropy_and_first, is_first
from jaxft.parallel.platform import planned_for


def example(dtype=jnp.float32):
    generator = np.random.default_rng(0)
    logits = jnp.asarray(generator.normal(scale=6, size=(3, 5, 11)), dtype)
    return logits, jnp.asarray(generator.integers(0, 11, size=(3, 5)), jnp.int32)


def torchs(logits, labels, smoothing):
    given = torch.tensor(np.asarray(logits, np.float32)).movedim(-1, 1).requires_grad_()
    losses = torch.nn.functional.cross_entropy(
        given, torch.tensor(np.asarray(labels)).long(), label_smoothing=smoothing, reduction="none"
    )
    losses.square().sum().backward()
    return losses.detach().numpy(), given.grad.movedim(1, -1).numpy()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_torchs(smoothing, dtype, platform):
    """The programs for TPUs differ; what they compute can be seen anywhere."""
    logits, labels = example(dtype)

    def squared(logits):
        losses = cross_entropy(logits, labels, label_smoothing=smoothing)
        return jnp.square(losses).sum(), losses

    with planned_for(platform):
        gradient, losses = jax.grad(squared, has_aux=True)(logits)
    wanted, wanted_gradient = torchs(logits, labels, smoothing)
    assert losses.dtype == jnp.float32 and losses.shape == labels.shape
    np.testing.assert_allclose(losses, wanted, rtol=1e-5, atol=1e-5)
    rounding = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(gradient, np.float32), wanted_gradient, rtol=rounding, atol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_large_logits_stay_finite(platform):
    logits = jnp.asarray([[1e4, -1e4, 0.0]])
    with planned_for(platform):
        np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([0])), [0.0])
        np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([1])), [2e4])


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_classes():
    labels = jnp.arange(7)
    np.testing.assert_allclose(cross_entropy(jnp.zeros((7, 7)), labels), np.log(7), rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(jnp.zeros((7, 7)), labels, label_smoothing=0.3), np.log(7), rtol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_guess_is_right_where_the_label_alone_is_largest(platform):
    logits, labels = jnp.asarray([[0.0, 3.0, 1.0], [0.0, 3.0, 3.0], [-5.0, -9.0, -7.0], [2.0, 2.0, 2.0]]), [1, 1, 0, 0]

    def both(logits, dtype=jnp.float32):
        with planned_for(platform):
            losses, first = cross_entropy_and_first(logits.astype(dtype), jnp.asarray(labels))
        return (losses + 7 * first).sum(), (losses, first)

    for dtype in (jnp.float32, jnp.bfloat16):
        losses, first = both(logits, dtype)[1]
        assert first.tolist() == is_first(logits, jnp.asarray(labels)).tolist() == [1, 0, 1, 0]
        np.testing.assert_allclose(losses, cross_entropy(logits, jnp.asarray(labels)), rtol=1e-6)
    # The guess has no gradient.
    gradient = jax.grad(both, has_aux=True)(logits)[0]
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - jax.nn.one_hot(jnp.asarray(labels), 3), atol=1e-6)
