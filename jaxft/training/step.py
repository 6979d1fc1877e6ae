"""The pure train step: every stream's gradient from sums and weights, combined, then one update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxft.errors import InvalidField
from jaxft.models.model import Model, ModelOutput
from jaxft.objectives.objective import Apply, Objective, StreamLoss
from jaxft.training.state import TrainState

Batches = Mapping[str, Mapping[str, jax.Array]]
Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Clipping of gradients by their global norm.

    Attributes:
      norm: largest norm; 0 clips nothing.
      scope: `stream` clips every stream's gradient by itself, before its weight, so that the large gradient of one
        cannot shrink another's (a replay of pretraining data often has a larger gradient than the task); `total` clips
        their sum.
    """

    norm: float = 1.0
    scope: Literal["stream", "total"] = "stream"

    def __post_init__(self):
        if self.norm < 0:
            raise InvalidField("norm", f"must not be negative (0 clips nothing), found {self.norm}")


def bind(model: Model, parameters, key: jax.Array | None = None) -> Apply:
    """A model as an objective calls it; without a key it is deterministic."""
    return _Bound(model, parameters, key)


@dataclasses.dataclass(frozen=True)
class _Bound:
    """See `jaxft.objectives.objective.Apply`.

    Attributes:
      model: trunk and heads.
      parameters: of it.
      key: random key of dropout and of what an objective samples.
    """

    model: Model
    parameters: Any
    key: jax.Array | None = None

    def __call__(self, sequences, targets=None, head=None, gather=None) -> ModelOutput:
        # Dropout never sees the very key that an objective samples with.
        rngs = None if self.key is None else {"dropout": jax.random.fold_in(self.key, 1)}
        return self.model.apply({"params": self.parameters}, sequences, targets, head, gather, rngs=rngs)


def make_train_step(
    model: Model,
    objectives: Mapping[str, Objective],
    weights: Mapping[str, float],
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    clip: ClipConfig,
    micro_batches: int = 1,
) -> Callable[[TrainState, Batches], tuple[TrainState, Metrics]]:
    """The step as a function of state and batches, to be compiled with the state donated.

    The loss is `sum_s weight_s * loss_sum_s / weight_sum_s`. A step whose gradient is not finite changes nothing but
    the step counter and is reported.

    Args:
      model: trunk and heads.
      objectives: by stream.
      weights: of each stream's mean loss.
      optimizer: gradient transformation.
      schedule: learning rate by step, for the report.
      clip: clipping.
      micro_batches: parts in which each stream's batch is computed one after the other; it must divide the batch.

    Returns:
      A function to the next state and metrics: per stream `loss_sum`, `weight_sum`, `tokens`, `ratios` and
      `gradient_norm`; for all `loss`, `gradient_norm`, `learning_rate`, `skipped` (0 or 1), float32 scalars.
    """

    def train_step(state: TrainState, batches: Batches) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        total, loss, norm, metrics = None, 0.0, None, {"streams": {}}
        for number, (name, objective) in enumerate(objectives.items()):
            gradient, sums = _stream_gradient(
                model, objective, state.parameters, batches[name], jax.random.fold_in(key, number), micro_batches
            )
            # The gradient is that of the sum; one factor makes it the mean's, clips and weighs it in a single pass.
            mean = 1.0 / jnp.maximum(sums.weight, 1e-9)
            stream_norm = global_norm(gradient) * mean
            factor = weights[name] * (_clip_factor(stream_norm, clip.norm) if clip.scope == "stream" else 1.0)
            scaled = jax.tree.map(lambda g, factor=factor * mean: g * factor, gradient)
            total = scaled if total is None else jax.tree.map(jnp.add, total, scaled)
            loss += weights[name] * sums.loss * mean
            norm = stream_norm * factor
            metrics["streams"][name] = {
                "loss_sum": sums.loss, "weight_sum": sums.weight, "tokens": sums.tokens, "gradient_norm": stream_norm,
                "ratios": sums.ratios,
            }  # fmt: skip
        if len(objectives) > 1:
            norm = global_norm(total)
        if clip.scope == "total":
            total = jax.tree.map(lambda g: g * _clip_factor(norm, clip.norm), total)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        metrics |= {"loss": loss, "gradient_norm": norm, "learning_rate": schedule(state.step), "skipped": 1.0 - finite}
        return _updated(state, total, finite, optimizer), metrics

    return train_step


def global_norm(tree) -> jax.Array:
    """Euclidean norm of all leaves together, float32."""
    return jnp.sqrt(sum(_squares(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(tree)))


def _squares(leaf: jax.Array) -> jax.Array:
    """Sum of the squares of all elements.

    On CPUs as a product of the leaf with itself, which takes one pass: XLA writes the squares out and reads them again
    to sum them, which cost a tenth of a BERT-base step. Accelerators fuse the two, and have better uses for their
    matrix units.
    """
    axes = tuple(range(leaf.ndim))

    def product(x: jax.Array) -> jax.Array:
        return jax.lax.dot_general(x, x, ((axes, axes), ((), ())), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(leaf, cpu=product, default=lambda x: jnp.square(x).sum())


def _stream_gradient(model, objective, parameters, batch, key, micro_batches: int):
    """Gradient of a stream's summed loss, float32, and its sums, over `micro_batches` parts."""

    def loss_of(parameters, part, key) -> tuple[jax.Array, StreamLoss]:
        sums = objective.loss(bind(model, parameters, key), part)
        return sums.loss, sums

    batch = objective.balance(batch)
    compute = jax.grad(loss_of, has_aux=True)
    if micro_batches == 1:
        gradient, sums = compute(parameters, batch, jax.random.fold_in(key, 0))
    else:

        def add(carry, part):
            new = compute(parameters, part[1], jax.random.fold_in(key, part[0]))
            return jax.tree.map(jnp.add, carry, new), None

        # Rows are dealt out in turn, so that every part is spread over all devices as the batch is.
        parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
        shapes = jax.eval_shape(compute, parameters, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradient, sums), _ = jax.lax.scan(add, zeros, (jnp.arange(micro_batches), parts))
    return gradient, sums


def _clip_factor(norm: jax.Array, largest: float) -> jax.Array | float:
    return jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-9)) if largest else 1.0


def _updated(state: TrainState, gradient, finite: jax.Array, optimizer) -> TrainState:
    def update(old):
        parameters, moments = old
        updates, moments = optimizer.update(gradient, moments, parameters)
        return optax.apply_updates(parameters, updates), moments

    parameters, moments = jax.lax.cond(finite, update, lambda old: old, (state.parameters, state.optimizer))
    return TrainState(step=state.step + 1, seed=state.seed, parameters=parameters, optimizer=moments)
