"""Runs of a few steps of the small model with two heads, under a policy of what moves."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.finetuning.naming import layer_names, parameter_names
from jaxft.finetuning.policy import Policy, PolicyConfig, make_policy
from jaxft.models.model import abstract_parameters
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.state import TrainState, split
from jaxft.training.step import make_train_step
from support.two_heads import HEADS, make_batches, objectives


def policy_of(model, total_steps: int = 10, heads=HEADS, **fields) -> Policy:
    """A policy for the parameters of a model."""
    return make_policy(PolicyConfig(**fields), *described(model)[:2], model.config, heads, total_steps)


def optimizer_of(model, policy: Policy, anchors=(), **fields) -> optax.GradientTransformation:
    """An optimizer with a constant learning rate of 0.1, gradient descent where `fields` do not name another."""
    config = OptimizerConfig(**{"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "b1": 0.0, **fields})
    shapes, axes, _ = described(model)
    schedule = optax.constant_schedule(config.learning_rate)
    return make_optimizer(config, schedule, shapes, axes, HEADS, policy=policy, anchors=anchors)


def start_of(parameters, optimizer, policy: Policy, origin=None) -> TrainState:
    """A state at step 0."""
    own, _ = split(parameters, policy.trained)
    return TrainState(jnp.int32(0), jnp.int32(3), parameters, optimizer.init(own), origin)


def step_of(model, optimizer, policy: Policy, weights=None, clip=None, own_objectives=None, **options):
    """A compiled train step on both streams."""
    weights = weights or {"task": 1.0, "replay": 0.5}
    used = own_objectives or {name: objective for name, objective in objectives().items() if name in weights}
    step = make_train_step(
        model,
        used,
        weights,
        optimizer,
        optax.constant_schedule(0.1),
        clip or ClipConfig(0.0),
        trained=policy.trained,
        **options,
    )
    return jax.jit(step)


def run(state: TrainState, step, steps: int = 3) -> tuple[TrainState, list[dict]]:
    """The state after so many steps, and the metrics of each."""
    seen = []
    for number in range(steps):
        state, metrics = step(state, make_batches(number))
        seen.append(jax.device_get(metrics))
    return state, seen


def bits(tree) -> dict[str, np.ndarray]:
    """Arrays by name, as integers, which tell 0 from -0 and compare exactly."""
    leaves = zip(parameter_names(tree), jax.tree.leaves(tree), strict=True)
    return {name: np.asarray(leaf).view(np.uint32 if leaf.dtype.itemsize == 4 else np.uint8) for name, leaf in leaves}


@functools.cache
def described(model):
    """Shapes, axes, and names by layer of a model's parameters."""
    shapes, axes = abstract_parameters(model)
    return shapes, axes, layer_names(shapes, axes, model.config)


def by_name(model, tree) -> dict[str, np.ndarray]:
    """Arrays by their names by layer."""
    out = {}
    for own, leaf in zip(described(model)[2], jax.tree.leaves(tree), strict=True):
        out |= dict(zip(own, np.asarray(leaf) if len(own) > 1 else [np.asarray(leaf)], strict=True))
    return out


def moved(model, before, after) -> set[str]:
    """Names by layer of what is not the same bit by bit."""
    one, two = by_name(model, before), by_name(model, after)
    return {name for name in one if one[name].tobytes() != two[name].tobytes()}
