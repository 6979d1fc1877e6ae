"""Bootstrap intervals: as wide as theory says, right as often as they claim, the same for a seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from jaxft.evaluation.bootstrap import intervals, paired_difference, resamples


def mean_of(values: np.ndarray):
    return lambda chosen: values[chosen].mean()


@pytest.mark.parametrize("bca", [False, True])
def test_the_interval_of_a_mean_is_that_of_the_normal_law(bca):
    values = np.random.default_rng(0).normal(3, 2, 400)
    (found,) = intervals(mean_of(values), 400, 0.95, 2000, bca=bca)
    error = 1.96 * values.std() / 20
    assert found.value == values.mean()
    assert found.low == pytest.approx(found.value - error, abs=0.02)
    assert found.high == pytest.approx(found.value + error, abs=0.02)


def test_bca_is_that_of_scipy():
    values = np.random.default_rng(1).lognormal(size=60)
    (found,) = intervals(mean_of(values), 60, 0.9, 9999, bca=True)
    reference = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=9999, method="BCa", rng=0)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), rel=0.02)
    (percentile,) = intervals(mean_of(values), 60, 0.9, 9999)
    assert found.low > percentile.low and found.high > percentile.high  # skewed to the right


@pytest.mark.parametrize("bca", [False, True])
def test_intervals_hold_the_truth_about_as_often_as_they_say(bca):
    rng, held = np.random.default_rng(2), 0
    for number in range(200):
        right = (rng.random(80) < 0.7).astype(float)
        (found,) = intervals(mean_of(right), 80, 0.8, 200, seed=number, bca=bca)
        held += found.low <= 0.7 <= found.high
    assert 0.72 <= held / 200 <= 0.90


def test_several_statistics_share_their_draws():
    values = np.random.default_rng(3).normal(size=50)
    both = intervals(lambda chosen: [values[chosen].mean(), -values[chosen].mean()], 50, 0.9, 100)
    assert (both[0].low, both[0].high) == pytest.approx((-both[1].high, -both[1].low))
    assert both == intervals(lambda chosen: [values[chosen].mean(), -values[chosen].mean()], 50, 0.9, 100)
    assert both != intervals(lambda chosen: [values[chosen].mean(), -values[chosen].mean()], 50, 0.9, 100, seed=1)


def test_what_never_changes_is_sure_and_what_has_no_value_is_left_out():
    (sure,) = intervals(lambda chosen: 0.5, 10, 0.95, 20, bca=True)
    assert (sure.low, sure.value, sure.high) == (0.5, 0.5, 0.5)
    values = np.arange(4.0)
    (some,) = intervals(lambda chosen: values[chosen].mean() if 0 in chosen else math.nan, 4, 0.95, 200)
    assert 0 <= some.low < some.high < 3
    (none,) = intervals(lambda chosen: math.nan, 4, 0.95, 20)
    assert math.isnan(none.low) and math.isnan(none.high)


@pytest.mark.parametrize("options", [(10, 0.0, 10), (10, 1.0, 10), (10, 0.9, 0), (0, 0.9, 10)])
def test_impossible_intervals_are_refused(options):
    with pytest.raises(ValueError, match="no interval of confidence"):
        intervals(lambda chosen: 0.0, *options)


def test_every_example_is_drawn_about_as_often():
    counts = np.bincount(np.concatenate(list(resamples(20, 2000))), minlength=20)
    assert abs(counts - 2000).max() < 5 * math.sqrt(2000)


def test_a_paired_difference_sees_what_two_intervals_do_not():
    """Two systems that fail on the same hard examples, of which one is a little better everywhere."""
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 5, 200)
    first, second = hard + 0.3 + rng.normal(0, 0.5, 200), hard
    alone = [intervals(mean_of(values), 200, 0.95, 500)[0] for values in (first, second)]
    assert alone[0].low < alone[1].high  # they overlap
    found = paired_difference(mean_of(first), mean_of(second), 200)
    assert found.interval.value == pytest.approx((first - second).mean())
    assert found.interval.low > 0 and found.p_value < 0.01
    same = paired_difference(mean_of(first), mean_of(first + rng.normal(0, 0.5, 200)), 200)
    assert same.p_value > 0.05 and same.interval.low < 0 < same.interval.high


def test_chance_differences_are_rarely_called_real():
    rng = np.random.default_rng(5)
    called = 0
    for number in range(100):
        first, second = (rng.random(60) < 0.6).astype(float), (rng.random(60) < 0.6).astype(float)
        called += paired_difference(mean_of(first), mean_of(second), 60, number=200, seed=number).p_value < 0.1
    assert called <= 20
