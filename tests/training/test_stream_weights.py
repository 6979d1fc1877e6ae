"""Weights of streams by step: shapes in closed form, stages, rests, and that a stream at rest costs nothing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.errors import InvalidField
from jaxft.training.balance import BalanceConfig, ClipConfig
from jaxft.training.state import TrainState
from jaxft.training.step import make_train_step
from jaxft.training.stream_weights import Stage, WeightScheduleConfig, stream_weight

TOTAL = 20


def weights(config: WeightScheduleConfig | None, every: int = 1, weight: float = 0.5) -> np.ndarray:
    at = stream_weight(weight, config, every, TOTAL)
    return np.array([float(at(jnp.int32(step))) for step in range(TOTAL)]) / weight


def test_a_constant_weight_is_a_number():
    assert stream_weight(0.25, None, 1, TOTAL) == 0.25


def test_every_third_step_begins_with_the_first():
    assert np.flatnonzero(weights(None, every=3)).tolist() == [0, 3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_shapes_are_their_formulas_between_start_and_stop(shape):
    found = weights(WeightScheduleConfig(shape, end=0.2, start=0.25, stop=0.75))
    place = (np.arange(5, 15) - 5) / 10
    wanted = {"constant": np.ones(10), "linear": 1 - 0.8 * place, "cosine": 1 - 0.8 * (1 - np.cos(np.pi * place)) / 2}[
        shape
    ]
    np.testing.assert_allclose(found[5:15], wanted, rtol=1e-5)
    # Exactly nothing before and after, so that the stream is not computed there.
    assert not found[:5].any() and not found[15:].any()


def test_a_replay_that_stops_before_the_end():
    assert np.flatnonzero(weights(WeightScheduleConfig(stop=0.9))).tolist() == list(range(18))


def test_stages_follow_each_other_and_the_last_one_stays():
    config = WeightScheduleConfig(stages=(Stage(0.25, 1.0), Stage(0.5, 0.0), Stage(0.75, 2.0)))
    np.testing.assert_allclose(weights(config), [1.0] * 5 + [0.0] * 5 + [2.0] * 10)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start": 0.5, "stop": 0.5}, "stop"),
        ({"stop": 1.5}, "stop"),
        ({"end": -0.1}, "end"),
        ({"stages": (Stage(0.5, 1.0), Stage(0.25, 0.0))}, "stages"),
        ({"stages": (Stage(0.5, -1.0),)}, "stages"),
    ],
)
def test_impossible_values_are_refused(fields, field):
    with pytest.raises(InvalidField) as raised:
        WeightScheduleConfig(**fields)
    assert raised.value.field == field


# --- In the train step ---


@dataclasses.dataclass(frozen=True)
class Broken:
    """An objective whose loss and gradient are not finite where its batch says so."""

    inner: object

    def balance(self, batch):
        return self.inner.balance(batch)

    def loss(self, apply, batch):
        part = self.inner.loss(apply, batch)
        return part.replace(loss=part.loss / (1.0 - batch["broken"][0]))


def test_a_stream_at_rest_is_not_computed(make_model, objectives, fresh_parameters, make_batches):
    """Its batches are broken wherever it rests: as soon as one is computed, the step is skipped."""
    own = {"task": objectives["task"], "replay": Broken(objectives["replay"])}
    schedule = stream_weight(0.5, WeightScheduleConfig(stop=0.5), 2, 8)
    optimizer = optax.sgd(0.01)
    step = jax.jit(
        make_train_step(
            make_model(),
            own,
            {"task": 1.0, "replay": schedule},
            optimizer,
            lambda step: 0.01,
            ClipConfig(1.0),
            balance=BalanceConfig("project"),
        )
    )
    state = TrainState(jnp.int32(0), jnp.int32(0), fresh_parameters, optimizer.init(fresh_parameters))
    active = [True, False, True, False, False]
    for number, takes_part in enumerate(active):
        batches = make_batches(number)
        batches["replay"]["broken"] = np.full(8, not takes_part, np.float32)
        before, (state, metrics) = state, step(state, batches)
        task, replay = (metrics["streams"][name] for name in ("task", "replay"))
        assert metrics["skipped"] == 0
        assert (replay["weight_sum"] > 0) == (replay["gradient_norm"] > 0) == takes_part
        if not takes_part:
            assert metrics["loss"] == pytest.approx(float(task["loss_sum"] / task["weight_sum"]))
        heads = zip(*(jax.tree.leaves(s.parameters["head_masked_lm"]) for s in (before, state)), strict=True)
        assert any(np.any(old != new) for old, new in heads) == takes_part
