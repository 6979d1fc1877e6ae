"""The train step: sums over weights whatever the split, clipping by stream, and steps that are left out."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.errors import InvalidField
from jaxft.models.model import abstract_parameters
from jaxft.objectives.objective import Objective, StreamLoss
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.state import TrainState
from jaxft.training.step import bind, make_train_step

RATE = 0.5
WEIGHTS = {"task": 1.0, "replay": 0.25}
NO_CLIP, BY_STREAM, BY_TOTAL = ClipConfig(norm=0.0), ClipConfig(0.05, "stream"), ClipConfig(0.05, "total")


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """An objective around another one."""

    inner: Objective

    def balance(self, batch):
        return self.inner.balance(batch)


class Scaled(Wrapped):
    """An objective whose loss, and so whose gradient, is larger by a factor that comes with the batch."""

    def loss(self, apply, batch) -> StreamLoss:
        part = self.inner.loss(apply, batch)
        return part.replace(loss=part.loss * batch["factor"][0])


class SometimesBroken(Wrapped):
    """An objective with the same finite loss everywhere, but no finite gradient where a batch is not `healthy`."""

    def loss(self, apply, batch) -> StreamLoss:
        part = self.inner.loss(apply, batch)
        return part.replace(loss=part.loss + 0.0 * jnp.sqrt(part.loss * batch["healthy"].min()))


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


def sgd(model):
    """Plain gradient descent: the change of the parameters is the gradient times the rate."""
    shapes, axes = abstract_parameters(model)
    config = OptimizerConfig("sgd", RATE, weight_decay=0.0, b1=0.0)
    return make_optimizer(config, optax.constant_schedule(RATE), shapes, axes, frozenset({"task", "masked_lm"}))


@pytest.fixture(scope="module")
def start(fresh_parameters):
    """A function from an optimizer to a state at step 0."""
    return lambda optimizer: TrainState(jnp.int32(0), jnp.int32(0), fresh_parameters, optimizer.init(fresh_parameters))


@pytest.fixture(scope="module")
def stepped(model, start, objectives, make_batches):
    """A function that makes a step of gradient descent on both streams; it returns the gradient and the metrics."""
    streams = {name: Scaled(objective) for name, objective in objectives.items()}
    descent = sgd(model)
    state = start(descent)

    @functools.cache
    def compiled(clip, micro_batches):
        return jax.jit(make_train_step(model, streams, WEIGHTS, descent, lambda step: RATE, clip, micro_batches))

    def run(clip=NO_CLIP, micro_batches=1, batches=None, **factors):
        batches = batches or make_batches()
        for name, batch in batches.items():
            batch["factor"] = np.full(8, factors.get(name, 1.0), np.float32)
        after, metrics = compiled(clip, micro_batches)(state, batches)
        return gradient_of(state, after), jax.device_get(metrics)

    return run


def gradient_of(before, after):
    return jax.tree.map(
        lambda old, new: (np.asarray(old) - np.asarray(new)) / RATE, before.parameters, after.parameters
    )


def norm(tree) -> float:
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tree))))


def apart(one, other) -> float:
    """Distance of two gradients as a share of their size."""
    return norm(jax.tree.map(np.subtract, one, other)) / norm(one)


def combined(*parts):
    """The sum of gradients, each with a factor."""
    return jax.tree.map(
        lambda *leaves: sum(f * leaf for (f, _), leaf in zip(parts, leaves, strict=True)), *(g for _, g in parts)
    )


@pytest.fixture(scope="module")
def alone(stepped):
    """The gradient of each stream's mean loss, without its weight."""
    task, replay = stepped(replay=0.0)[0], stepped(task=0.0)[0]
    return {"task": task, "replay": combined((1 / WEIGHTS["replay"], replay))}


# --- Sums and weights ---


@pytest.mark.parametrize("micro_batches", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_micro_batches_of_unequal_weight_give_the_same_step(stepped, make_batches, micro_batches):
    batches = make_batches()
    for name, weight in (
        ("task", batches["task"]["row_weight"]),
        ("replay", batches["replay"]["label_weights"].sum(-1)),
    ):
        parts = weight.reshape(-1, micro_batches).sum(0)
        assert len(set(parts.tolist())) > 1, name  # else a mean of means would be as good
    whole, metrics = stepped()
    split, split_metrics = stepped(micro_batches=micro_batches)
    assert apart(whole, split) < 1e-5
    assert split_metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    for name, row in metrics["streams"].items():
        other = split_metrics["streams"][name]
        assert row.keys() == other.keys()
        for (path, value), same in zip(jax.tree.leaves_with_path(row), jax.tree.leaves(other), strict=True):
            assert same == pytest.approx(value, rel=1e-5), (name, path)


def test_the_loss_is_the_weighted_sum_of_the_means_of_the_streams(
    stepped, fresh_parameters, model, objectives, make_batches
):
    batches = make_batches(1)
    _, metrics = stepped(batches=batches)
    wanted = 0.0
    for name, objective in objectives.items():
        part = jax.jit(lambda batch, objective=objective: objective.loss(bind(model, fresh_parameters), batch))(
            batches[name]
        )
        found = metrics["streams"][name]
        assert found["loss_sum"] == pytest.approx(float(part.loss), rel=1e-5)
        assert found["ratios"]["accuracy"].sum == float(part.ratios["accuracy"].sum)
        assert found["tokens"] == (batches[name]["segment_ids"] > 0).sum()
        wanted += WEIGHTS[name] * float(part.loss) / found["weight_sum"]
    assert metrics["streams"]["task"]["weight_sum"] == batches["task"]["row_weight"].sum() == 5
    assert metrics["streams"]["replay"]["weight_sum"] == batches["replay"]["label_weights"].sum()
    assert metrics["loss"] == pytest.approx(wanted, rel=1e-6)
    assert (metrics["skipped"], metrics["learning_rate"]) == (0.0, np.float32(RATE))


def test_the_gradient_is_that_of_the_combined_loss(stepped, fresh_parameters, model, objectives, make_batches):
    batches = make_batches()

    def loss(parameters):
        parts = {name: objective.loss(bind(model, parameters), batches[name]) for name, objective in objectives.items()}
        return sum(WEIGHTS[name] * part.loss / part.weight for name, part in parts.items())

    assert apart(jax.device_get(jax.jit(jax.grad(loss))(fresh_parameters)), stepped()[0]) < 1e-5


def test_the_gradient_is_the_weighted_sum_of_those_of_the_streams(stepped, alone):
    both, metrics = stepped()
    assert apart(both, combined(*((WEIGHTS[name], gradient) for name, gradient in alone.items()))) < 1e-5
    assert metrics["gradient_norm"] == pytest.approx(norm(both), rel=1e-4)
    for name, gradient in alone.items():
        assert metrics["streams"][name]["gradient_norm"] == pytest.approx(norm(gradient), rel=1e-4)


def test_a_stream_trains_its_own_head_alone(alone):
    assert norm(alone["task"]["head_masked_lm"]) == norm(alone["replay"]["head_task"]) == 0
    assert norm(alone["task"]["head_task"]) > 0 and norm(alone["replay"]["head_masked_lm"]) > 0


def test_a_batch_without_any_weight_moves_nothing(stepped, make_batches, alone):
    batches = make_batches()
    batches["task"]["row_weight"][:] = 0.0
    gradient, metrics = stepped(batches=batches)
    assert apart(gradient, combined((WEIGHTS["replay"], alone["replay"]))) < 1e-5
    assert metrics["skipped"] == 0 and metrics["streams"]["task"]["gradient_norm"] == 0


# --- Clipping ---


def test_the_large_gradient_of_one_stream_does_not_shrink_anothers(stepped, alone):
    assert all(norm(gradient) > 0.06 for gradient in alone.values())
    # Each is clipped first and weighted then.
    wanted = combined(*((WEIGHTS[name] * 0.05 / norm(gradient), gradient) for name, gradient in alone.items()))
    for factor in (1.0, 1e4):
        both, metrics = stepped(BY_STREAM, replay=factor)
        assert apart(wanted, both) < 1e-4
        # What is reported is the norm before clipping.
        assert metrics["streams"]["replay"]["gradient_norm"] == pytest.approx(factor * norm(alone["replay"]), rel=1e-4)


def test_clipping_the_total_scales_all_streams_alike(stepped):
    plain, _ = stepped(replay=1e3)
    clipped, metrics = stepped(BY_TOTAL, replay=1e3)
    assert norm(clipped) == pytest.approx(0.05, rel=1e-4)
    assert apart(clipped, combined((0.05 / norm(plain), plain))) < 1e-4
    assert metrics["gradient_norm"] == pytest.approx(norm(plain), rel=1e-4)


@pytest.mark.parametrize("clip", [BY_STREAM, BY_TOTAL])
def test_small_gradients_are_not_scaled_up(stepped, clip):
    small, _ = stepped(clip, task=1e-2, replay=1e-2)
    plain, _ = stepped()
    assert apart(combined((1e-2, plain)), small) < 1e-3


def test_an_impossible_norm_is_refused():
    with pytest.raises(InvalidField):
        ClipConfig(norm=-1.0)


# --- Steps that are left out ---


@pytest.fixture(scope="module")
def adam_step(model, start, objectives):
    """A compiled step with AdamW, which has moments, and its first state."""
    shapes, axes = abstract_parameters(model)
    optimizer = make_optimizer(
        OptimizerConfig(), optax.constant_schedule(1e-2), shapes, axes, frozenset({"task", "masked_lm"})
    )
    streams = {"task": SometimesBroken(objectives["task"]), "replay": objectives["replay"]}
    step = make_train_step(model, streams, dict.fromkeys(streams, 1.0), optimizer, lambda step: 1e-2, ClipConfig())
    return jax.jit(step), start(optimizer)


def broken(batches, kind: str):
    healthy = np.ones(8, np.float32)
    batches["task"]["healthy"] = healthy
    if kind == "gradient":
        healthy[3] = 0.0
    elif kind != "none":
        batches["task"]["row_weight"][3] = {"nan": np.nan, "inf": np.inf}[kind]
    return batches


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_step_without_a_finite_gradient_changes_the_counter_alone(adam_step, make_batches, kind):
    step, start = adam_step
    before, metrics = step(start, broken(make_batches(0), "none"))
    assert metrics["skipped"] == 0
    after, metrics = step(before, broken(make_batches(1), kind))
    assert metrics["skipped"] == 1
    assert np.isfinite(metrics["loss"]) == (kind == "gradient")
    assert (int(before.step), int(after.step)) == (1, 2) and int(after.seed) == int(before.seed)
    for part in ("parameters", "optimizer"):
        leaves = zip(jax.tree.leaves(getattr(before, part)), jax.tree.leaves(getattr(after, part)), strict=True)
        assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)
    # And the run goes on as if the bad batch had not been, but for the counter.
    good = broken(make_batches(2), "none")
    one, metrics = step(after, good)
    assert metrics["skipped"] == 0
    assert apart(step(before, good)[0].parameters, one.parameters) == 0


def test_steps_move_everything_that_has_a_gradient(adam_step, make_batches):
    step, start = adam_step
    after, _ = step(start, broken(make_batches(0), "none"))
    paths = jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: bool(np.any(a != b)), start.parameters, after.parameters)
    )
    still = {jax.tree_util.keystr(path, simple=True, separator="/") for path, moved in paths if not moved}
    # Adding the same to all keys changes no attention.
    assert {name for name in still if not name.endswith("key/bias")} == set()
    assert int(after.step) == 1


# --- Dropout and precision ---


@pytest.fixture(scope="module")
def dropping(make_model, start, objectives, make_batches):
    """A function from a state to the losses of two equal streams, whose batch is one row four times; and a state."""
    model = make_model(dropout=0.3)
    optimizer, twice = sgd(model), {"one": objectives["replay"], "other": objectives["replay"]}
    batch = {key: np.repeat(array[:1], 4, axis=0) for key, array in make_batches()["replay"].items()}
    step = make_train_step(
        model, twice, dict.fromkeys(twice, 1.0), optimizer, lambda step: RATE, NO_CLIP, micro_batches=2
    )
    step = jax.jit(step)

    def losses(state):
        metrics = step(state, dict.fromkeys(twice, batch))[1]["streams"]
        return tuple(float(metrics[name]["loss_sum"]) for name in twice)

    return losses, start(optimizer)


def test_dropout_follows_seed_and_step(dropping):
    losses, state = dropping
    first = losses(state)
    assert losses(state) == first
    states = [
        state,
        state.replace(step=state.step + 1),
        state.replace(step=state.step + 2),
        state.replace(seed=state.seed + 1),
    ]
    assert len({loss for one in states for loss in losses(one)}) == 8  # nor do the two streams drop the same


def test_micro_batches_drop_different_places(make_model, fresh_parameters, objectives, make_batches, dropping):
    """Were the key the same for both, the loss of a row four times were twice that of the row twice."""
    losses, state = dropping
    model = make_model(dropout=0.3)
    batch = {key: np.repeat(array[:1], 2, axis=0) for key, array in make_batches()["replay"].items()}
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
    loss = jax.jit(lambda key: objectives["replay"].loss(bind(model, fresh_parameters, key), batch).loss)
    parts = [float(loss(jax.random.fold_in(key, part))) for part in (0, 1)]
    assert abs(parts[0] - parts[1]) > 1e-3
    assert losses(state)[0] == pytest.approx(sum(parts), rel=1e-5)


def test_bfloat16_computes_but_does_not_keep(make_model, start, objectives, make_batches, stepped):
    seen = set()

    def note(updates, state, parameters=None):
        seen.update(leaf.dtype for leaf in jax.tree.leaves(updates))
        return updates, state

    noting = optax.GradientTransformation(lambda parameters: optax.EmptyState(), note)
    model = make_model(precision="bfloat16")
    optimizer = optax.chain(noting, sgd(model))
    step = jax.jit(make_train_step(model, objectives, WEIGHTS, optimizer, lambda step: RATE, NO_CLIP))
    before = start(optimizer)
    after, metrics = step(before, make_batches())
    assert seen == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(after.parameters)} == {np.dtype(np.float32)}
    assert metrics["loss"].dtype == np.float32
    # The same to the precision of bfloat16, and not the same: it was used.
    exact, wanted = stepped()
    assert 1e-4 < apart(exact, gradient_of(before, after)) < 0.05
    assert float(metrics["loss"]) == pytest.approx(float(wanted["loss"]), rel=0.01)
