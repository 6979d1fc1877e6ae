"""The train state: its beginning, and its shapes without computing it."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxft.finetuning.naming import parameter_names
from jaxft.models.model import abstract_parameters
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.state import abstract_state, create_state, replaced


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def optimizer(model):
    return optimizer_of(model, "adamw")


def optimizer_of(model, name: str):
    shapes, axes = abstract_parameters(model)
    return make_optimizer(OptimizerConfig(name), optax.constant_schedule(1e-3), shapes, axes, frozenset({"task"}))


def same(one, other) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.fixture(scope="module")
def state(model, optimizer, mesh):
    return create_state(model, optimizer, 7, mesh)


def test_a_state_begins_at_step_0_with_float32_parameters_and_empty_moments(state):
    assert (int(state.step), int(state.seed)) == (0, 7)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {np.dtype(np.float32)}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))


def test_the_seed_decides_the_parameters(model, optimizer, mesh, state):
    assert same(create_state(model, optimizer, 7, mesh), state)
    other = create_state(model, optimizer, 8, mesh)
    for name, one, two in zip(
        parameter_names(state.parameters),
        jax.tree.leaves(state.parameters),
        jax.tree.leaves(other.parameters),
        strict=True,
    ):
        # Biases begin at 0 and scales at 1, everything else at random.
        assert np.array_equal(one, two) == name.endswith(("bias", "scale")), name


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_the_abstract_state_has_the_shapes_dtypes_and_shardings_of_a_real_one(model, mesh, name):
    optimizer = optimizer_of(model, name)
    real, abstract = create_state(model, optimizer, 0, mesh), abstract_state(model, optimizer, mesh)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for one, other in zip(jax.tree.leaves(real), jax.tree.leaves(abstract), strict=True):
        assert (one.shape, one.dtype, one.sharding) == (other.shape, other.dtype, other.sharding)


def test_pretrained_parameters_replace_fresh_ones_of_the_same_names_alone(model, optimizer, mesh, state):
    rng = np.random.default_rng(0)
    given = {"trunk": jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), state.parameters["trunk"])}
    given["head_task"] = {"pooler": jax.tree.map(np.zeros_like, state.parameters["head_task"]["pooler"])}
    made = create_state(model, optimizer, 7, mesh, lambda fresh: replaced(fresh, given)).parameters
    assert same(made["trunk"], given["trunk"])
    assert same(made["head_task"]["pooler"], given["head_task"]["pooler"])
    assert same(made["head_task"]["classifier"], state.parameters["head_task"]["classifier"])
    assert same(made["head_masked_lm"], state.parameters["head_masked_lm"])
    assert jax.tree.structure(made) == jax.tree.structure(state.parameters)
    assert all(
        a.sharding == b.sharding for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(state.parameters), strict=True)
    )
