"""The smallest parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxft.models.layers import activate

TORCHS = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", sorted(TORCHS))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_activations_and_their_slopes_are_torchs(name, dtype):
    x = jnp.linspace(-30, 30, 601).astype(dtype)
    given = torch.tensor(np.asarray(x, np.float32)).requires_grad_()
    wanted = TORCHS[name](given)
    wanted.sum().backward()
    values, pull = jax.vjp(lambda y: activate(name, y), x)
    (slopes,) = pull(jnp.ones_like(values))
    assert values.dtype == dtype
    rounding = 2e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(values, np.float32), wanted.detach().numpy(), rtol=rounding, atol=4e-6)
    np.testing.assert_allclose(np.asarray(slopes, np.float32), given.grad.numpy(), rtol=rounding, atol=1e-5)
