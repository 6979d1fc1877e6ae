"""Averages over steps, with the start, and over runs, against the same recursions in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import InvalidField
from jaxft.finetuning.averaging import AveragingConfig, interpolate, soup, with_average
from jaxft.training.state import TrainState

STEPS = 9
FROZEN = np.array([0.1, -0.0, 0.3], np.float32)
WALK = np.cumsum(np.random.default_rng(0).normal(size=(STEPS + 1, 3)), axis=0).astype(np.float32)


def averages(config: AveragingConfig) -> np.ndarray:
    """The average after each step of a walk, with a parameter beside it that does not move."""

    def train_step(state, batches):
        return state.replace(step=state.step + 1, parameters={**state.parameters, "walk": batches}), {}

    step = jax.jit(with_average(train_step, config, STEPS))
    parameters = {"frozen": jnp.asarray(FROZEN), "codes": jnp.uint8([7]), "walk": jnp.asarray(WALK[0])}
    state, seen = TrainState(jnp.int32(0), jnp.int32(0), parameters, None, None, parameters), []
    for number in range(STEPS):
        state, _ = step(state, jnp.asarray(WALK[number + 1]))
        assert state.used is state.average
        assert np.asarray(state.average["frozen"]).tobytes() == FROZEN.tobytes()
        assert state.average["codes"] == 7
        seen.append(np.asarray(state.average["walk"]))
    return np.stack(seen)


def test_the_exponential_average_is_the_recursion():
    found, wanted = averages(AveragingConfig(decay=0.6)), []
    average = WALK[0]
    for step in range(1, STEPS + 1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * WALK[step]
        wanted.append(average)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_the_uniform_average_is_the_mean_of_its_points(every):
    found = averages(AveragingConfig("uniform", start=2, every=every))
    for step in range(1, STEPS + 1):
        points = [WALK[step]] if step <= 2 else WALK[3 : step + 1 : every]
        np.testing.assert_allclose(found[step - 1], np.mean(points, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_until_its_start_the_average_is_the_parameters_themselves(kind):
    found = averages(AveragingConfig(kind, start=0.5))
    np.testing.assert_array_equal(found[:4], WALK[1:5])
    assert (found[6] != WALK[7]).any()


def test_interpolation_is_exact_at_its_ends_and_linear_between():
    start, tuned = (
        {"a": jnp.asarray(WALK[0]), "b": jnp.asarray(FROZEN)},
        {"a": jnp.asarray(WALK[1]), "b": jnp.asarray(FROZEN)},
    )
    for share, end in ((0.0, start), (1.0, tuned)):
        jax.tree.map(np.testing.assert_array_equal, interpolate(start, tuned, share), end)
    between = interpolate(start, tuned, 0.3)
    np.testing.assert_allclose(between["a"], 0.7 * WALK[0] + 0.3 * WALK[1], rtol=1e-6)
    np.testing.assert_array_equal(between["b"], FROZEN)


def test_a_soup_is_the_weighted_mean():
    trees = [{"a": jnp.asarray(row)} for row in WALK[:4]]
    np.testing.assert_allclose(soup(trees)["a"], WALK[:4].mean(0), rtol=1e-5, atol=1e-6)
    weights = [1.0, 0.0, 2.0, 1.0]
    wanted = (np.asarray(weights)[:, None] * WALK[:4]).sum(0) / 4
    np.testing.assert_allclose(soup(trees, weights)["a"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "field"), [({"decay": 1.0}, "decay"), ({"start": -1}, "start"), ({"every": 0}, "every")]
)
def test_impossible_values_are_refused(fields, field):
    with pytest.raises(InvalidField) as raised:
        AveragingConfig(**fields)
    assert raised.value.field == field
