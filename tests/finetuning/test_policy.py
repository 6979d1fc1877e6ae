"""Which parameters move, how far, and from which step on: exactly as the recipe's patterns say."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.drawn import draw_parameters
from support.small_tuning import bits, by_name, described, moved, optimizer_of, policy_of, run, start_of, step_of
from support.two_heads import small_model

from jaxft.errors import InvalidField, RecipeError
from jaxft.finetuning.naming import parameter_names
from jaxft.finetuning.policy import PolicyConfig
from jaxft.training.state import joined, split

RATE = 0.1


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def parameters(model):
    """Some of them are minus zero, which a sum with zero would turn into zero."""
    return jax.tree.map(lambda leaf: leaf.at[..., 0].set(-0.0), draw_parameters(model))


def updated(model, parameters, policy, steps: int = 1, gradient=1.0, **optimizer):
    """Parameters after each of some updates by a constant gradient, without any model."""
    transformation = optimizer_of(model, policy, **optimizer)
    own, rest = split(parameters, policy.trained)
    state, seen = transformation.init(own), []
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), own)

    @jax.jit
    def update(own, state):
        updates, state = transformation.update(gradients, state, own)
        return optax.apply_updates(own, updates), state

    for _ in range(steps):
        own, state = update(own, state)
        seen.append(joined(own, rest))
    return seen


def all_names(model) -> set[str]:
    return {name for own in described(model)[2] for name in own}


# --- Frozen ---


def test_what_is_frozen_stays_bit_by_bit_and_has_no_moments(model, parameters):
    policy = policy_of(model, freeze=("embeddings", "layer_0/", "norm"))
    optimizer = optimizer_of(model, policy, name="adamw", weight_decay=0.1, b1=0.9)
    step = step_of(model, optimizer, policy, micro_batches=2)
    state = start_of(parameters, optimizer, policy)
    after, _ = run(state, step, 4)
    # Also part of a stack whose other layers move.
    wanted = {name for name in all_names(model) if not any(f in name for f in ("embeddings", "layer_0/", "norm"))}
    assert moved(model, parameters, after.parameters) == wanted
    untouched = {name for name in bits(parameters) if "embeddings" in name or "norm" in name}
    for moments in (optax.tree.get(after.optimizer, "mu"), optax.tree.get(after.optimizer, "nu")):
        assert set(parameter_names(moments)) == set(bits(parameters)) - untouched


def test_heads_that_no_stream_trains_are_frozen(model, parameters):
    (after,) = updated(model, parameters, policy_of(model, heads=frozenset({"task"})), weight_decay=0.1)
    assert not any(name.startswith("head_masked_lm/") for name in moved(model, parameters, after))


def test_only_biases_and_heads_move_under_bitfit(model, parameters):
    policy = policy_of(model, train_only=("bias$", "^head_"))
    optimizer = optimizer_of(model, policy, name="adamw", weight_decay=0.1)
    after, _ = run(start_of(parameters, optimizer, policy), step_of(model, optimizer, policy), 2)
    trained = {name for name in all_names(model) if name.endswith("bias") or name.startswith("head_")}
    # The biases of keys cannot change a softmax, so they may stay.
    assert trained >= moved(model, parameters, after.parameters) >= {n for n in trained if "key/bias" not in n}


def test_nothing_left_to_train_is_refused(model):
    with pytest.raises(RecipeError, match="nothing is left to train"):
        policy_of(model, freeze=("trunk", "head"))


@pytest.mark.parametrize("field", ["freeze", "train_only"])
def test_patterns_must_find_something(model, field):
    with pytest.raises(RecipeError, match=rf"finetuning.{field}: 'layer_7/' matches no parameter"):
        policy_of(model, **{field: ("bias$", "layer_7/")})


# --- How far ---


def test_layer_wise_rates_are_powers_of_the_factor(model, parameters):
    (after,) = updated(model, parameters, policy_of(model, layer_decay=0.5))
    before, now = by_name(model, parameters), by_name(model, after)
    depths = {"embeddings": 3, "layer_0/": 2, "layer_1/": 1, "final_norm": 0, "head_": 0}
    for name, was in before.items():
        (below,) = [below for part, below in depths.items() if part in name]
        np.testing.assert_allclose(was - now[name], RATE * 0.5**below, rtol=1e-4, err_msg=name)


def test_the_first_pattern_that_matches_gives_the_rate(model, parameters):
    rates = {"layer_1/attention/": 2.0, "layer_1/": 0.25, "embeddings": 0.0}
    (after,) = updated(model, parameters, policy_of(model, rates=rates))
    before, now = by_name(model, parameters), by_name(model, after)
    for name, was in before.items():
        factor = next((factor for pattern, factor in rates.items() if pattern in name), 1.0)
        np.testing.assert_allclose(was - now[name], RATE * factor, rtol=1e-4, err_msg=name)
    assert "trunk/embeddings/tokens/table" not in moved(model, parameters, after)


def test_weight_decay_by_pattern_takes_the_place_of_the_optimizers(model, parameters):
    policy = policy_of(model, weight_decay={"layer_0/.*bias$": 0.5, "layer_1/": 0.0})
    (after,) = updated(model, parameters, policy, gradient=0.0, weight_decay=0.1)
    before, now = by_name(model, parameters), by_name(model, after)
    for name, was in before.items():
        usual = 0.0 if name.endswith(("bias", "scale")) else 0.1
        decay = 0.5 if "layer_0/" in name and name.endswith("bias") else 0.0 if "layer_1/" in name else usual
        np.testing.assert_allclose(now[name], was * (1 - RATE * decay), rtol=1e-6, atol=1e-8, err_msg=name)


# --- From which step on ---


def test_nothing_moves_before_its_step(model, parameters):
    """Heads at once, after two steps what follows the layers, then every two steps a layer, the embeddings last."""
    policy = policy_of(model, heads_first=2, unfreeze_every=2)
    begins = {"head_": 0, "final_norm": 2, "layer_1/": 4, "layer_0/": 6, "embeddings": 8}
    seen = [parameters, *updated(model, parameters, policy, 10, name="adamw", weight_decay=0.1, b1=0.9)]
    for step, (before, after) in enumerate(itertools.pairwise(seen)):
        wanted = {n for n in all_names(model) for part, begin in begins.items() if part in n and begin <= step}
        assert moved(model, before, after) == wanted, step


def test_steps_may_be_shares_of_the_run(model):
    policy = policy_of(model, total_steps=40, heads_first=0.25)
    begins = dict(zip(parameter_names(policy.begins), jax.tree.leaves(policy.begins), strict=True))
    assert begins["head_task/classifier/kernel"] == 0 and begins["trunk/embeddings/tokens/table"] == 10


# --- What the user is told ---


def test_the_table_counts_every_parameter_once(model, parameters):
    policy = policy_of(model, freeze=("embeddings",), layer_decay=0.5, weight_decay={"layer_1/": 0.3}, heads_first=3)
    assert sum(row[1] for row in policy.table) == sum(leaf.size for leaf in jax.tree.leaves(parameters))
    rows = {(name, factor, begin, decay) for name, _, factor, begin, decay in policy.table}
    assert {
        ("trunk/embeddings/tokens", 0.0, 0, None),
        ("trunk/body/layer_0", 0.25, 3, None),
        ("trunk/body/layer_1", 0.5, 3, 0.3),
        ("head_task", 1.0, 0, None),
    } <= rows


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"layer_decay": 1.1}, "layer_decay"),
        ({"rates": {"bias$": -1.0}}, "rates"),
        ({"heads_first": 2.5}, "heads_first"),
        ({"unfreeze_every": -1}, "unfreeze_every"),
    ],
)
def test_impossible_values_are_refused(fields, field):
    with pytest.raises(InvalidField) as raised:
        PolicyConfig(**fields)
    assert raised.value.field == field
