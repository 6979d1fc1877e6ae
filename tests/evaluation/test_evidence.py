"""Means, differences and recommendations say no more than the runs bear out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from jaxft.evaluation.evidence import Estimate, Option, difference, estimate, frontier, recommended


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_an_interval_is_students(confidence):
    values = np.random.default_rng(0).normal(3, 2, 7)
    found = estimate(values, confidence)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.runs == 7


def test_intervals_hold_the_truth_as_often_as_they_say():
    draw = np.random.default_rng(1)
    held = [(found := estimate(draw.normal(1.0, 1.0, 3), 0.9)).low <= 1.0 <= found.high for _ in range(2000)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.025)


def test_a_single_run_bears_out_nothing():
    found = estimate([2.0])
    assert found.mean == 2.0 and (found.low, found.high) == (-math.inf, math.inf)
    assert not found.excludes_zero


def test_ways_are_compared_seed_by_seed():
    # The seeds differ far more than the ways: only pairs show that one is always a little better.
    one, other = {0: 10.1, 1: 20.1, 2: 30.11, 5: 0.0}, {2: 30.0, 1: 20.0, 0: 10.0, 7: 99.0}
    found = difference(one, other)
    assert found.mean == pytest.approx(0.31 / 3) and found.runs == 3
    assert found.excludes_zero
    assert not estimate([*one.values()]).low > 0


def test_what_differs_by_chance_is_not_called_different():
    draw = np.random.default_rng(2)
    wrong = [
        difference(dict(enumerate(draw.normal(size=3))), dict(enumerate(draw.normal(size=3)))).excludes_zero
        for _ in range(1000)
    ]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.025)


def test_the_frontier_is_what_nothing_beats_in_both():
    points = {"a": (0.0, 1.0), "b": (1.0, 3.0), "c": (1.0, 2.0), "d": (2.0, 2.9), "e": (3.0, 4.0), "twin": (3.0, 4.0)}
    assert frontier(points) == ["e", "twin", "b", "a"]


def option(share: float, forgetting: Estimate, gain: Estimate | None = None) -> Option:
    return Option(f"replay {share}", share, forgetting, gain)


def test_the_smallest_share_that_surely_keeps_the_bound_is_recommended():
    unsure, sure, surer = Estimate(0.04, 0.0, 0.08, 3), Estimate(0.03, 0.02, 0.04, 3), Estimate(0.0, -0.01, 0.01, 3)
    alike = Estimate(0.0, -0.1, 0.1, 3)
    options = [
        option(0.25, surer, alike),
        option(0.01, unsure, alike),
        option(0.0, Estimate(1, 0.9, 1.1, 3)),
        option(0.05, sure, alike),
    ]
    assert recommended(options, 0.05).share == 0.05
    assert recommended(options, 0.02).share == 0.25
    assert recommended(options, -0.5) is None
    assert recommended(options, 2.0).share == 0.0


def test_a_share_that_costs_the_task_is_not_recommended():
    kept = Estimate(0.0, -0.01, 0.01, 3)
    worse, unsure = Estimate(-0.05, -0.08, -0.02, 3), Estimate(-0.05, -0.12, 0.02, 3)
    assert recommended([option(0.05, kept, worse), option(0.25, kept, unsure)], 0.05).share == 0.25


def test_a_single_run_is_taken_by_its_value():
    assert recommended([option(0.1, estimate([0.04]), None)], 0.05).share == 0.1
    assert recommended([option(0.1, estimate([0.06]), None)], 0.05) is None
