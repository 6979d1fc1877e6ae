"""A small encoder with two heads, batches for it, and runs of a few steps under a tactic."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from settings import setting_of

from jaxft.finetuning.naming import layer_names, parameter_names
from jaxft.finetuning.policy import Policy, PolicyConfig, make_policy
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.objectives.masked_lm import MaskedLM
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.state import TrainState, split
from jaxft.training.step import make_train_step

VOCABULARY, LENGTH, ROWS = 40, 8, 8
HEADS = frozenset({"task", "masked_lm"})
LABELS = ("a", "b", "c")


class MaskedLMWithoutText(MaskedLM):
    """The objective for batches that are made here: its loss alone, without a tokenizer."""

    kind = "masked_lm"

    def __init__(self):
        self.heads = {"masked_lm": HeadConfig("masked_lm")}


def small_config(**changes) -> ModelConfig:
    """The trunk of most tests; `changes` are of its config."""
    fields = {
        "vocab_size": VOCABULARY,
        "embed_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_dim": 24,
        "max_length": LENGTH,
        "position": "learned",
        "attention_bias": True,
        "mlp_bias": True,
        "activation": "relu",
        "initializer_range": 0.2,
    }
    return ModelConfig(**{**fields, **changes})


def small_model(compute: ComputeConfig | None = None, **changes) -> Model:
    """It with a head for each objective."""
    heads = (("task", HeadConfig("sequence_classification", 3, dropout=0.0)), ("masked_lm", HeadConfig("masked_lm")))
    return Model(small_config(**changes), heads, compute or ComputeConfig(scan_layers=True))


def objectives() -> dict:
    """A task that classifies, and a replay that predicts masked tokens; no dropout."""
    task = SequenceClassificationConfig(labels=LABELS, dropout=0.0)
    return {
        "task": SequenceClassification(task, setting_of(None, LENGTH, "task")),
        "replay": MaskedLMWithoutText(),
    }


def make_batches(seed: int) -> dict[str, dict[str, np.ndarray]]:
    """A batch of both streams; rows weigh differently, so that means of means would show."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, VOCABULARY, (2, ROWS, LENGTH)).astype(np.int32)
    segments = (np.arange(LENGTH) < generator.integers(3, LENGTH + 1, (2, ROWS, 1))).astype(np.int32)
    replay = {
        "token_ids": ids[0],
        "segment_ids": segments[0],
        "positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH)),
        "gather": generator.integers(0, 3, (ROWS, 3)).astype(np.int32),
        "labels": generator.integers(0, VOCABULARY, (ROWS, 3)).astype(np.int32),
        "label_weights": (generator.random((ROWS, 3)) < np.linspace(0.2, 1, ROWS)[:, None]).astype(np.float32),
        "row_weight": np.ones(ROWS, np.float32),
    }
    task = {
        "token_ids": ids[1],
        "segment_ids": segments[1],
        "token_types": np.zeros_like(ids[1]),
        "label": generator.integers(0, 3, ROWS).astype(np.int32),
        "row_weight": (np.arange(ROWS) < ROWS - 3).astype(np.float32),
    }
    return {"task": task, "replay": replay}


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


def draw(model, seed: int = 0, spread: float = 0.3):
    """Normal numbers for every parameter, around 1 for the scales of norms: nothing is zero by chance of its start."""
    generator = np.random.default_rng(seed)

    def drawn(path, leaf):
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(offset + spread * generator.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, described(model)[0])
