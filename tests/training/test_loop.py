"""The loop: what happens around the steps, in which order, and when it ends."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import DivergenceError
from jaxft.objectives.objective import Ratio
from jaxft.training.loop import LoopConfig, Meter, Request, run_loop, summarize


def metrics_of(step: int, skipped: bool = False, **streams):
    """Metrics as a train step gives them: float32 scalars."""
    rows = streams or {
        "task": {"loss_sum": 8.0 + step, "weight_sum": 4.0, "tokens": 100.0, "gradient_norm": 1.0, "ratios": {}}
    }
    norm = math.nan if skipped else 2.0 * step
    whole = {
        "loss": float(step),
        "gradient_norm": norm,
        "learning_rate": 0.1 * step,
        "skipped": float(skipped),
        "streams": rows,
    }
    return {name: value if name == "streams" else jnp.float32(value) for name, value in whole.items()}


class Recorder:
    """Hooks that note what they are called for; the state is the number of steps that it has seen."""

    def __init__(self, interrupted_at: int | None = None, stop_at: int | None = None):
        self.events: list[tuple] = []
        self._interrupted_at, self._stop_at, self.steps = interrupted_at, stop_at, 0

    def log(self, step, metrics):
        self.events.append(("log", step, metrics))

    def evaluate(self, step, state):
        assert state == step
        self.events.append(("evaluate", step))

    def save(self, step, state):
        assert state == step
        self.events.append(("save", step))

    def should_stop(self):
        return self._stop_at is not None and ("evaluate", self._stop_at) in self.events

    def requested(self, step):
        return Request(interrupt=self._interrupted_at is not None and self.steps >= self._interrupted_at)

    def of(self, kind: str) -> list[int]:
        return [event[1] for event in self.events if event[0] == kind]

    def order(self) -> list[tuple]:
        return [event[:2] for event in self.events]


def run(hooks: Recorder, first=0, skipped=(), **options):
    config = LoopConfig(
        **{"total": 10, "log_every": 3, "evaluate_every": 4, "save_every": 5, "skips_allowed": 2, **options}
    )

    def train_step(state, batch):
        assert batch == f"batch {state}"
        hooks.steps = state + 1
        return state + 1, metrics_of(state + 1, state + 1 in skipped)

    batches = (f"batch {step}" for step in range(first, config.total))
    return run_loop(first, first, train_step, batches, hooks, config, lambda: 0.0)


def test_evaluations_and_checkpoints_come_at_their_steps_and_at_the_end():
    hooks = Recorder()
    assert run(hooks) == (10, 10)
    assert hooks.of("evaluate") == [0, 4, 8, 10]
    assert hooks.of("save") == [5, 10]


def test_the_last_step_is_evaluated_and_saved_once_where_it_is_due_anyway():
    hooks = Recorder()
    run(hooks, total=20, evaluate_every=10, save_every=20)
    assert hooks.of("evaluate") == [0, 10, 20] and hooks.of("save") == [20]


def test_a_resumed_run_does_not_evaluate_its_start_and_keeps_the_rhythm():
    hooks = Recorder()
    assert run(hooks, first=5) == (10, 10)
    assert hooks.of("evaluate") == [8, 10] and hooks.of("save") == [10]


def test_nothing_is_left_to_do():
    hooks = Recorder()
    assert run(hooks, first=10) == (10, 10)
    assert hooks.events == []


def test_metrics_are_logged_before_the_evaluation_and_that_before_the_checkpoint():
    hooks = Recorder()
    run(hooks, evaluate_every=5, save_every=5, log_every=100)
    assert hooks.order() == [
        ("evaluate", 0),
        ("log", 5),
        ("evaluate", 5),
        ("save", 5),
        ("log", 10),
        ("evaluate", 10),
        ("save", 10),
    ]


def test_a_checkpoint_without_an_evaluation_has_its_metrics_too():
    hooks = Recorder()
    run(hooks, evaluate_every=100, save_every=4, log_every=100)
    assert hooks.order()[:3] == [("evaluate", 0), ("log", 4), ("save", 4)]


@pytest.mark.parametrize("log_every", [1, 2, 3, 7, 100])
def test_every_step_is_logged_once(log_every):
    hooks = Recorder()
    run(hooks, log_every=log_every)
    logs = [(step, metrics) for kind, step, metrics in (e for e in hooks.events if e[0] == "log")]
    steps = [step for step, _ in logs]
    assert steps == sorted(set(steps)) and steps[-1] == 10
    # Weights of 4 in each step say how many steps a report is of.
    assert [metrics["task.weight"] for _, metrics in logs] == [4 * n for n in np.diff([0, *steps])]
    assert sum(metrics["task.loss"] * metrics["task.weight"] for _, metrics in logs) == pytest.approx(
        sum(8 + s for s in range(1, 11))
    )
    assert max(np.diff([0, *steps])) <= log_every + 1  # one more where a pause follows


def test_logs_between_pauses_do_not_wait_for_the_newest_step():
    hooks = Recorder()
    run(hooks, log_every=2, evaluate_every=100, save_every=100)
    assert hooks.of("log") == [2, 4, 6, 8, 10]
    seen_at = []

    class Noting(Recorder):
        def log(self, step, metrics):
            seen_at.append((step, self.steps))

    run(Noting(), log_every=2, evaluate_every=100, save_every=100)
    assert seen_at == [(2, 3), (4, 5), (6, 7), (8, 9), (10, 10)]


def test_an_interruption_saves_the_step_it_finds_and_stops():
    hooks = Recorder(interrupted_at=7)
    assert run(hooks) == (7, 7)
    assert hooks.of("save") == [5, 7] and hooks.of("evaluate") == [0, 4]
    assert hooks.order()[-2:] == [("log", 7), ("save", 7)]


def test_an_interruption_at_a_checkpoint_saves_once():
    hooks = Recorder(interrupted_at=5)
    assert run(hooks) == (5, 5)
    assert hooks.of("save") == [5]


def test_an_early_stop_saves_and_stops():
    hooks = Recorder(stop_at=4)
    assert run(hooks) == (4, 4)
    assert hooks.order()[-3:] == [("log", 4), ("evaluate", 4), ("save", 4)]


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_too_many_skipped_steps_in_a_row_are_a_divergence(log_every):
    hooks = Recorder()
    with pytest.raises(DivergenceError, match=r"the last 3 steps up to step 4 .*task.*learning_rate"):
        run(hooks, skipped={2, 3, 4}, log_every=log_every)
    assert ("save", 5) not in hooks.order()  # nor is the evaluation of step 4 made
    assert hooks.of("evaluate") == [0]


@pytest.mark.parametrize("skipped", [{2, 3, 5, 6}, {1, 2, 4, 5, 7, 8, 10}, set()])
def test_skipped_steps_that_are_not_in_a_row_are_only_counted(skipped):
    hooks = Recorder()
    assert run(hooks, skipped=skipped)[0] == 10
    assert sum(metrics["skipped"] for kind, _, metrics in (e for e in hooks.events if e[0] == "log")) == len(skipped)


def test_a_row_of_skips_goes_on_over_reports():
    meter = Meter(lambda: 0.0, skips_allowed=2)
    for step in (1, 2):
        meter.add(step, metrics_of(step, skipped=True))
        meter.report(include_newest=True)
    meter.add(3, metrics_of(3, skipped=True))
    with pytest.raises(DivergenceError):
        meter.report(include_newest=True)


def test_streams_are_summed_over_weights_and_not_averaged():
    """Steps of 1 and 9 tokens: a mean of means would give 3.5 for the loss."""
    one = {"loss_sum": 5.0, "weight_sum": 1.0, "tokens": 10.0, "gradient_norm": 1.0}
    other = {"loss_sum": 18.0, "weight_sum": 9.0, "tokens": 30.0, "gradient_norm": 3.0}
    # A ratio has a weight of its own: here one of examples.
    steps = [
        metrics_of(1, task={**one, "ratios": {"accuracy": Ratio(1.0, 2.0)}}),
        metrics_of(2, task={**other, "ratios": {"accuracy": Ratio(2.0, 3.0)}}),
    ]
    found = summarize(steps)
    assert found == pytest.approx(
        {
            "loss": 1.5,
            "gradient_norm": 3.0,
            "learning_rate": 0.2,
            "skipped": 0.0,
            "task.loss": 2.3,
            "task.weight": 10.0,
            "task.tokens": 40.0,
            "task.accuracy": 0.6,
            "task.gradient_norm": 2.0,
        }
    )
    assert all(isinstance(value, float) for value in found.values())


def test_streams_are_apart():
    row = {"loss_sum": 5.0, "weight_sum": 1.0, "tokens": 10.0, "gradient_norm": 1.0, "ratios": {}}
    found = summarize([metrics_of(1, task=row, replay={**row, "loss_sum": 7.0, "weight_sum": 2.0})])
    assert (found["task.loss"], found["replay.loss"]) == (5.0, 3.5)


def test_norms_are_averaged_over_finite_steps():
    found = summarize([metrics_of(1), metrics_of(2, skipped=True), metrics_of(3)])
    assert found["gradient_norm"] == pytest.approx(4.0) and found["skipped"] == 1
    assert math.isnan(summarize([metrics_of(1, skipped=True)])["gradient_norm"])


def test_rates_count_the_tokens_of_all_streams():
    meter = Meter(lambda: 0.0, skips_allowed=0)
    row = {"loss_sum": 5.0, "weight_sum": 1.0, "tokens": 10.0, "gradient_norm": 1.0, "ratios": {}}
    for step in (1, 2):
        meter.add(step, metrics_of(step, task=row, replay={**row, "tokens": 5.0}))
    ((step, values),) = meter.report(include_newest=True)
    assert step == 2
    assert values["tokens_per_second"] / values["steps_per_second"] == pytest.approx(15)  # tokens of a step
    assert 0 <= values["data_wait"] <= 1
    assert meter.report(include_newest=True) == []
