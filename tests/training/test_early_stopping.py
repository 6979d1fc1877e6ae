"""Stopping early: a function of the history of evaluations."""

from __future__ import annotations

import math

import pytest

from jaxft.errors import InvalidField
from jaxft.training.early_stopping import EarlyStoppingConfig, best_step, should_stop

METRIC = "reviews.accuracy"


def history(*values, metric=METRIC):
    return [{"step": 10 * i, metric: value, "other.loss": -value} for i, value in enumerate(values)]


def first_stop(values, lower=False, **options) -> int | None:
    """The number of evaluations after which a run stops."""
    config = EarlyStoppingConfig(METRIC, **options)
    whole = history(*values)
    return next((i for i in range(len(whole) + 1) if should_stop(whole[:i], config, lower)), None)


@pytest.mark.parametrize(
    ("values", "patience", "stops"),
    [
        ([0.5, 0.6, 0.7, 0.8, 0.9], 1, None),
        ([0.5, 0.4], 1, 2),
        ([0.5, 0.4, 0.3], 2, 3),
        ([0.5, 0.4, 0.6, 0.5, 0.5], 2, 5),
        ([0.5, 0.4, 0.6, 0.5, 0.7], 2, None),
        ([0.5, 0.5, 0.5], 2, 3),  # equal is no improvement
        ([0.5, 0.4, 0.45, 0.49], 3, 4),  # rising again, but below the best
        ([], 1, None),
        ([0.5], 1, None),
    ],
)
def test_stops_when_patience_is_used_up(values, patience, stops):
    assert first_stop(values, patience=patience) == stops
    assert first_stop([-value for value in values], lower=True, patience=patience) == stops
    assert first_stop([1 - value for value in values], lower=True, patience=patience) == stops


def test_small_improvements_do_not_count_but_add_up():
    assert first_stop([0.5, 0.51, 0.52], patience=2, minimum_change=0.1) == 3
    assert first_stop([0.5, 0.56, 0.62, 0.68], patience=2, minimum_change=0.1) is None
    assert first_stop([0.5, 0.75, 1.0], patience=1, minimum_change=0.25) == 2  # must be larger


def test_not_a_number_is_no_improvement():
    assert first_stop([0.5, math.nan, math.nan], patience=2) == 3
    assert first_stop([math.nan, 0.5, 0.6], patience=2) is None


def test_a_run_that_was_stopped_stays_stopped():
    """The decision is one on the whole history: it survives a resume."""
    values = history(0.5, 0.4, 0.3)
    config = EarlyStoppingConfig(METRIC, patience=2)
    assert should_stop(values, config, False) and should_stop(list(values), config, False)


@pytest.mark.parametrize(("values", "lower", "best"), [
    ([0.1, 0.3, 0.2], False, 10), ([0.1, 0.3, 0.2], True, 0), ([0.3, 0.1, 0.3], False, 0), ([0.2, 0.1, 0.1], True, 10),
    ([math.nan, 0.3, 0.2], False, 10), ([0.1, math.nan, 0.2], True, 0), ([], False, None), ([math.nan], True, None),
    ([-math.inf, -1.0], False, 10),
])  # fmt: skip
def test_the_first_of_the_best_steps(values, lower, best):
    assert best_step(history(*values), METRIC, lower) == best


def test_steps_without_the_metric_are_passed_over():
    rows = [{"step": 0}, {"step": 10, METRIC: None}, {"step": 20, METRIC: 0.4}, {"step": 30, "x.loss": 9.0}]
    assert best_step(rows, METRIC, False) == 20
    assert best_step(rows[:2], METRIC, False) is None


def test_impossible_values_are_refused():
    for options in ({"patience": 0}, {"minimum_change": -0.1}):
        with pytest.raises(InvalidField):
            EarlyStoppingConfig(METRIC, **options)
