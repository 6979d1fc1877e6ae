"""Mixout: the formula of the paper, its mean, its choices, and that it is off where nothing is trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.finetuning.mixout import mixout

START = {"head": jnp.full((4000,), 2.0), "trunk": jnp.linspace(-1.0, 1.0, 4000)}
NOW = {"head": jnp.full((4000,), 3.0), "trunk": jnp.linspace(1.0, 3.0, 4000)}
ANCHORED = {"head": False, "trunk": True}
RATE = 0.7


def mixed(key: int, rate: float = RATE):
    return jax.device_get(mixout(rate, ANCHORED)(NOW, START, jax.random.key(key)))


def test_each_number_is_one_of_the_two_of_the_papers_formula():
    """Lee et al. 2020, equation 4: `((1 - m) * p + m * p0 - rate * p0) / (1 - rate)` with `m` 0 or 1."""
    found = mixed(0)["trunk"]
    now, start = np.asarray(NOW["trunk"]), np.asarray(START["trunk"])
    kept, replaced = (now - RATE * start) / (1 - RATE), start
    is_replaced = np.isclose(found, replaced, atol=1e-5)
    np.testing.assert_allclose(found, np.where(is_replaced, replaced, kept), atol=1e-5)
    # Four standard deviations of the share.
    assert is_replaced.mean() == pytest.approx(RATE, abs=4 * np.sqrt(RATE * (1 - RATE) / 4000))


def test_the_mean_over_choices_is_the_parameter():
    mean = np.mean([mixed(key)["trunk"] for key in range(200)], axis=0)
    deviation = 2.0 * np.sqrt(RATE / (1 - RATE) / 200)  # of the mean of a number whose start is 2 away
    assert np.abs(mean - np.asarray(NOW["trunk"])).max() < 5 * deviation
    assert np.abs((mean - np.asarray(NOW["trunk"])).mean()) < 4 * deviation / np.sqrt(4000)


def test_a_small_rate_changes_little_and_fresh_heads_never_change():
    np.testing.assert_allclose(mixed(0, rate=1e-9)["trunk"], NOW["trunk"], rtol=1e-6)
    np.testing.assert_array_equal(mixed(0)["head"], NOW["head"])


def test_the_key_decides():
    np.testing.assert_array_equal(mixed(1)["trunk"], mixed(1)["trunk"])
    assert (mixed(1)["trunk"] != mixed(2)["trunk"]).any()


def test_gradients_flow_through_what_is_kept_alone():
    def total(parameters):
        return mixout(RATE, ANCHORED)(parameters, START, jax.random.key(0))["trunk"].sum()

    gradient = np.asarray(jax.grad(total)(NOW)["trunk"])
    is_replaced = np.isclose(mixed(0)["trunk"], START["trunk"], atol=1e-5)
    np.testing.assert_allclose(gradient, np.where(is_replaced, 0.0, 1 / (1 - RATE)), rtol=1e-5)
