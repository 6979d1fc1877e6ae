"""Pulls to the start: closed forms with gradient descent, extremes of the strength, and the paper's formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.errors import InvalidField
from jaxft.finetuning.anchors import EwcConfig, RecAdamConfig, ewc, l2_sp, recadam, set_importance
from jaxft.finetuning.config import FinetuningConfig
from jaxft.finetuning.lora import LoraConfig

RATE = 0.1
ANCHORED = {"trunk": True, "head": False}


def tree(trunk, head=(1.0, 2.0)):
    return {"trunk": jnp.asarray(trunk, jnp.float32), "head": jnp.asarray(head, jnp.float32)}


START = tree((0.5, -1.0, 2.0))


def walked(anchor, steps: int, gradient=None, parameters=START, importance=None):
    """Parameters after gradient descent with an anchor at `START`."""
    transformation = optax.chain(optax.scale_by_learning_rate(optax.constant_schedule(RATE)), anchor)
    state = transformation.init(parameters)
    if importance is not None:
        state = set_importance(state, importance)
    gradient = jax.tree.map(jnp.zeros_like, parameters) if gradient is None else gradient
    for _ in range(steps):
        updates, state = transformation.update(gradient, state, parameters, origin=START)
        parameters = optax.apply_updates(parameters, updates)
    return jax.device_get(parameters)


def schedule():
    return optax.constant_schedule(RATE)


def test_l2_sp_pulls_to_the_start_and_leaves_fresh_heads():
    away = tree((3.0, 3.0, 3.0))
    found = walked(l2_sp(2.0, schedule(), ANCHORED), 5, parameters=away)
    # Without a gradient each step divides the distance by 1 + rate * strength.
    wanted = np.asarray(START["trunk"]) + (3.0 - np.asarray(START["trunk"])) / 1.2**5
    np.testing.assert_allclose(found["trunk"], wanted, rtol=1e-6)
    np.testing.assert_array_equal(found["head"], away["head"])


def test_l2_sp_rests_where_gradient_and_pull_are_equal():
    """The minimum of `g * p + alpha / 2 * (p - p0) ** 2` is `p0 - g / alpha`: the pull is that of this penalty."""
    gradient = tree((1.0, -2.0, 0.5), (0.0, 0.0))
    found = walked(l2_sp(4.0, schedule(), ANCHORED), 200, gradient)
    np.testing.assert_allclose(found["trunk"], START["trunk"] - gradient["trunk"] / 4.0, rtol=1e-5)


def test_a_weak_l2_sp_is_not_lost_in_rounding():
    away = tree((3.0, 3.0, 3.0))
    anchor = l2_sp(1e-4, optax.constant_schedule(1e-5), ANCHORED)
    updates, _ = anchor.update(jax.tree.map(jnp.zeros_like, away), anchor.init(away), away, origin=START)
    np.testing.assert_allclose(updates["trunk"], 1e-9 * (START["trunk"] - 3.0), rtol=1e-5)


@pytest.mark.parametrize("strength", [1e30, np.inf])
def test_an_infinite_strength_holds_what_has_a_start_and_nothing_else(strength):
    gradient = tree((1.0, -2.0, 0.5), (1.0, 1.0))
    found = walked(l2_sp(strength, schedule(), ANCHORED), 3, gradient)
    np.testing.assert_array_equal(found["trunk"], START["trunk"])
    np.testing.assert_allclose(found["head"], START["head"] - 3 * RATE, rtol=1e-6)


@pytest.mark.parametrize("strength", [1e30, np.inf])
def test_ewc_holds_what_matters_and_frees_what_does_not(strength):
    gradient = tree((1.0, -2.0, 0.5), (1.0, 1.0))
    importance = tree((1.0, 0.0, 2.0), (1.0, 0.0))
    found = walked(ewc(strength, schedule(), ANCHORED), 3, gradient, importance=importance)
    np.testing.assert_array_equal(found["trunk"][[0, 2]], np.asarray(START["trunk"])[[0, 2]])
    np.testing.assert_allclose(found["trunk"][1], -1.0 + 3 * RATE * 2.0, rtol=1e-6)
    # A fresh head has no start worth keeping, whatever its importance.
    np.testing.assert_allclose(found["head"], START["head"] - 3 * RATE, rtol=1e-6)


def test_ewc_is_l2_sp_with_a_strength_for_each_number():
    gradient, importance = tree((1.0, -2.0, 0.5)), tree((2.0, 0.5, 1.0))
    found = walked(ewc(3.0, schedule(), ANCHORED), 4, gradient, importance=importance)
    for i, own in enumerate((2.0, 0.5, 1.0)):
        alone = walked(l2_sp(3.0 * own, schedule(), ANCHORED), 4, gradient)
        np.testing.assert_allclose(found["trunk"][i], alone["trunk"][i], rtol=1e-6)


def test_recadam_is_the_papers_formula():
    """Chen et al. 2020, algorithm 1: lambda(t) scales the task's step, 1 - lambda(t) the pull of strength gamma."""
    config = RecAdamConfig(strength=3.0, steepness=0.7, middle=4)
    gradient = tree((1.0, -2.0, 0.5), (1.0, -1.0))
    found = walked(recadam(config, schedule(), ANCHORED, 10), 8, gradient)
    start = parameters = np.asarray(START["trunk"], np.float64)
    for step in range(8):
        share = 1 / (1 + np.exp(-0.7 * (step - 4)))
        parameters = parameters - RATE * (
            share * np.asarray(gradient["trunk"]) + (1 - share) * 3.0 * (parameters - start)
        )
    np.testing.assert_allclose(found["trunk"], parameters, rtol=1e-5)
    # Heads learn the task from the first step on.
    np.testing.assert_allclose(found["head"], START["head"] - 8 * RATE * gradient["head"], rtol=1e-5)


def test_the_pull_of_recadam_never_overshoots():
    found = walked(
        recadam(RecAdamConfig(5000.0, 0.1, 100), schedule(), ANCHORED, 200), 3, parameters=tree((3.0, 3.0, 3.0))
    )
    np.testing.assert_allclose(found["trunk"], START["trunk"], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: EwcConfig(0.0, "replay"), "strength"),
        (lambda: EwcConfig(1.0, "replay", examples=0), "examples"),
        (lambda: RecAdamConfig(steepness=-1.0), "steepness"),
        (lambda: RecAdamConfig(middle=-1.0), "middle"),
        (lambda: FinetuningConfig(l2_sp=-1.0), "l2_sp"),
        (lambda: FinetuningConfig(mixout=1.0), "mixout"),
        (lambda: FinetuningConfig(lora=LoraConfig(), l2_sp=0.1), "l2_sp"),
        (lambda: FinetuningConfig(lora=LoraConfig(), ewc=EwcConfig(1.0, "replay")), "ewc"),
    ],
)
def test_impossible_values_are_refused(make, field):
    with pytest.raises(InvalidField) as raised:
        make()
    assert raised.value.field == field
