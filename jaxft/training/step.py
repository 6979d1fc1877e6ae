"""The pure train step: every stream's gradient from sums and weights, combined, then one update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxft.kernels.cross_entropy import weighted_sums
from jaxft.kernels.shapes import Places, Scalar
from jaxft.models.model import (
    AnyModel,
    ModelOutput,
    apply_model,
    apply_vocabulary_head,
    at_places,
    read_by_vocabulary_head,
)
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, Objective, StreamLoss
from jaxft.parallel.trees import Flags, Parameters, Tree
from jaxft.training.balance import BalanceConfig, ClipConfig, combine, global_norm
from jaxft.training.loss_parts import sums_in_parts
from jaxft.training.state import TrainState, joined, split

Batches = Mapping[str, Mapping[str, jax.Array]]
Metrics = dict[str, Any]
# From parameters, those at the start and a random key to the parameters that a training step computes with.
Vary = Callable[[Parameters, Parameters | None, jax.Array], Parameters]

# From trained parameters and a random key to the model as an objective calls it.
Applied = Callable[[Parameters, jax.Array], Apply]


def bind(
    model: AnyModel, parameters: Parameters, key: jax.Array | None = None, origin: Parameters | None = None
) -> Apply:
    """A model as an objective calls it; without a key it is deterministic.

    Args:
      model: trunk and heads.
      parameters: of it.
      key: of dropout and of what an objective samples.
      origin: the parameters that the run began with, where an objective compares with them.
    """
    before = None if origin is None else _Bound(model, jax.lax.stop_gradient(origin))
    return _Bound(model, parameters, key, before)


@dataclasses.dataclass(frozen=True)
class _Bound(Apply):
    """See `jaxft.objectives.objective.Apply`.

    Attributes:
      model: trunk and heads.
      parameters: of it.
      key: random key of dropout and of what an objective samples.
      origin: the model at the start of the run, or None.
    """

    model: AnyModel
    parameters: Parameters
    key: jax.Array | None = None
    origin: Apply | None = None

    def __call__(
        self,
        sequences: Sequences,
        targets: Sequences | None = None,
        head: str | tuple[str, ...] | None = None,
        gather: Places | None = None,
    ) -> ModelOutput:
        # Dropout never sees the very key that an objective samples with.
        rngs = None if self.key is None else {"dropout": jax.random.fold_in(self.key, 1)}
        return apply_model(self.model, self.parameters, sequences, targets, head, gather, rngs)

    def token_sums(
        self,
        labels: jax.Array,
        weights: jax.Array,
        head: str,
        sequences: Sequences,
        targets: Sequences | None = None,
        gather: Places | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[Scalar, Scalar]:
        model, parts = self.model, self.model.compute.loss_parts
        if parts == 1:
            return super().token_sums(labels, weights, head, sequences, targets, gather, label_smoothing)

        def of_part(
            parameters: Parameters, hidden: jax.Array, labels: jax.Array, weights: jax.Array
        ) -> tuple[Scalar, Scalar]:
            logits = apply_vocabulary_head(model, parameters, hidden, head)
            return weighted_sums(logits, labels, weights, label_smoothing=label_smoothing)

        hidden = at_places(self(sequences, targets).hidden, gather)
        parameters = read_by_vocabulary_head(self.parameters, head, model.config)
        reduce_dtype = jnp.dtype(model.compute.reduce_dtype)
        return sums_in_parts(of_part, parts, reduce_dtype, parameters, hidden, labels, weights)


def make_train_step(
    model: AnyModel,
    objectives: Mapping[str, Objective],
    weights: Mapping[str, float | optax.Schedule],
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    clip: ClipConfig,
    micro_batches: int = 1,
    *,
    balance: BalanceConfig | None = None,
    trained: Flags | None = None,
    vary: Vary | None = None,
) -> Callable[[TrainState, Batches], tuple[TrainState, Metrics]]:
    """The step as a function of state and batches, to be compiled with the state donated.

    The loss is `sum_s weight_s * loss_sum_s / weight_sum_s`. A step whose gradient is not finite changes nothing but
    the step counter and is reported.

    Args:
      model: trunk and heads.
      objectives: by stream, the task first.
      weights: of each stream's mean loss, or functions from the step to them; a stream is not computed where its
        function is 0.
      optimizer: gradient transformation; it may take the parameters at the start as `origin`.
      schedule: learning rate by step, for the report.
      clip: clipping.
      micro_batches: parts in which each stream's batch is computed one after the other; it must divide the batch.
      balance: how the task is protected from the other streams; not at all where None.
      trained: tree of booleans of the parameters' structure; the others stay exactly as they are. None: all.
      vary: what the parameters become before they are computed with, or None.

    Returns:
      A function to the next state and metrics: per stream `loss_sum`, `weight_sum`, `tokens`, `ratios`,
      `gradient_norm`, and `cosine` where it is asked for; for all `loss`, `gradient_norm`, `learning_rate`, `skipped`
      (0 or 1), float32 scalars.
    """
    optimizer, balance = optax.with_extra_args_support(optimizer), balance or BalanceConfig()

    def train_step(state: TrainState, batches: Batches) -> tuple[TrainState, Metrics]:
        own, rest = split(state.parameters, trained)
        applied = _applier(model, state, rest, vary)
        gradients, found, shares = _computed(applied, objectives, weights, state, own, batches, micro_batches)
        # The gradients are those of sums; one factor makes each the mean's, clips and weighs it in a single pass.
        means = [1.0 / jnp.maximum(sums.weight, 1e-9) for sums in found]
        norms = [global_norm(gradient) * mean for gradient, mean in zip(gradients, means, strict=True)]
        combined = combine(gradients, means, norms, shares, clip, balance)
        loss = sum(share * sums.loss * mean for share, sums, mean in zip(shares, found, means, strict=True))
        finite = jnp.isfinite(loss) & jnp.isfinite(combined.norm)
        metrics = {
            "streams": _reported(objectives, found, norms, combined.cosines if balance.cosine else ()),
            "loss": loss,
            "gradient_norm": combined.norm,
            "learning_rate": schedule(state.step),
            "skipped": 1.0 - finite,
        }
        return _updated(state, own, rest, combined.gradient, finite, optimizer), metrics

    return train_step


def _applier(model: AnyModel, state: TrainState, rest: Parameters, vary: Vary | None) -> Applied:
    """From the trained parameters and a random key to the model as an objective calls it."""

    def applied(parameters: Parameters, key: jax.Array) -> Apply:
        parameters = joined(parameters, rest)
        if vary is not None:
            # One choice for all streams and parts of a step.
            chosen = jax.random.fold_in(jax.random.key(state.seed), -1 - state.step)
            parameters = vary(parameters, state.origin, chosen)
        return bind(model, parameters, key, state.origin)

    return applied


def _computed(
    applied: Applied,
    objectives: Mapping[str, Objective],
    weights: Mapping[str, float | optax.Schedule],
    state: TrainState,
    own: Parameters,
    batches: Batches,
    micro_batches: int,
) -> tuple[list[Parameters], list[StreamLoss], list[jax.Array | float]]:
    """Gradients, sums and weights of the streams."""
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    gradients, found, shares = [], [], []
    for number, (name, objective) in enumerate(objectives.items()):
        compute = functools.partial(
            _stream_gradient, applied, objective, own, batches[name], jax.random.fold_in(key, number), micro_batches
        )
        weight = weights[name]
        if callable(weight):
            weight = weight(state.step)
            gradient, sums = _where(weight > 0, compute)
        else:
            gradient, sums = compute()
        gradients.append(gradient)
        found.append(sums)
        shares.append(weight)
    return gradients, found, shares


def _where(active: jax.Array, compute: Callable[[], Tree]) -> Tree:
    """What `compute` gives where a stream takes part in a step, else zeros at no cost."""
    shapes = jax.eval_shape(compute)
    return jax.lax.cond(active, compute, lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))


def _reported(
    objectives: Iterable[str], found: Iterable[StreamLoss], norms: Iterable[jax.Array], cosines: Iterable[jax.Array]
) -> dict[str, Any]:
    """The metrics of each stream."""
    streams = {
        name: {
            "loss_sum": sums.loss,
            "weight_sum": sums.weight,
            "tokens": sums.tokens,
            "gradient_norm": norm,
            "ratios": sums.ratios,
        }
        for name, sums, norm in zip(objectives, found, norms, strict=True)
    }
    for name, cosine in zip(list(streams)[1:], cosines, strict=False):  # none, where nobody asked for them
        streams[name]["cosine"] = cosine
    return streams


def _stream_gradient(
    applied: Applied,
    objective: Objective,
    parameters: Parameters,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    micro_batches: int,
) -> tuple[Parameters, StreamLoss]:
    """Gradient of a stream's summed loss, float32, and its sums, over `micro_batches` parts."""

    def loss_of(parameters: Parameters, part: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, StreamLoss]:
        sums = objective.loss(applied(parameters, key), part)
        return sums.loss, sums

    batch = objective.balance(batch)
    compute = jax.grad(loss_of, has_aux=True)
    if micro_batches == 1:
        gradient, sums = compute(parameters, batch, jax.random.fold_in(key, 0))
    else:

        def add(carry: Tree, part: Tree) -> tuple[Tree, None]:
            new = compute(parameters, part[1], jax.random.fold_in(key, part[0]))
            return jax.tree.map(jnp.add, carry, new), None

        # Rows are dealt out in turn, so that every part is spread over all devices as the batch is.
        parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
        shapes = jax.eval_shape(compute, parameters, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradient, sums), _ = jax.lax.scan(add, zeros, (jnp.arange(micro_batches), parts))
    return gradient, sums


def _updated(
    state: TrainState,
    own: Parameters,
    rest: Parameters,
    gradient: Parameters,
    finite: jax.Array,
    optimizer: optax.GradientTransformationExtraArgs,
) -> TrainState:
    origin = None if state.origin is None else _like(state.origin, own)

    def update(old: tuple[Parameters, Tree]) -> tuple[Parameters, Tree]:
        parameters, moments = old
        updates, moments = optimizer.update(gradient, moments, parameters, origin=origin)
        return optax.apply_updates(parameters, updates), moments

    parameters, moments = jax.lax.cond(finite, update, lambda old: old, (own, state.optimizer))
    return state.replace(step=state.step + 1, parameters=joined(parameters, rest), optimizer=moments)


def _like(tree: Parameters, other: Parameters) -> Parameters:
    """`tree` without the leaves that are None in `other`."""
    return jax.tree.map(lambda leaf, own: None if own is None else leaf, tree, other, is_leaf=lambda x: x is None)
