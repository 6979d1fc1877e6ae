"""Learning rates by step, against formulas worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxft.errors import InvalidField
from jaxft.training.schedule import ScheduleConfig, make_schedule

NAMES = ("constant", "linear", "cosine", "inverse_square_root", "warmup_stable_decay")
PEAK = 3e-4


def rates(total: int = 100, **options) -> np.ndarray:
    """Learning rate of the steps 0 to `total`, the last of which is not made any more."""
    schedule = make_schedule(ScheduleConfig(**options), PEAK, total)
    return np.array([float(schedule(step)) for step in range(total + 1)]) / PEAK


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", [10, 0.1, 1, 37])
def test_warms_up_in_equal_steps_from_above_zero_to_the_peak(name, warmup):
    found = rates(name=name, warmup=warmup, decay=0.2)
    steps = round(warmup * 100) if warmup < 1 else warmup
    assert found[: steps + 1] == pytest.approx([(step + 1) / (steps + 1) for step in range(steps + 1)], rel=1e-5)
    assert found.argmax() == steps and found.max() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0.1), (1, 0), (2, 0.5), (3, 1), (10, 0.1), (100, 0), (5, 50)])
def test_no_step_is_wasted(name, total, warmup):
    """Every step that is made moves the parameters, from the first to the last, and no rate passes the peak."""
    found = rates(total, name=name, warmup=warmup)[:-1]
    assert (found > 0).all() and (found <= 1 + 1e-6).all()


def test_constant():
    assert rates(name="constant", warmup=10)[10:] == pytest.approx(1)


@pytest.mark.parametrize("end", [0.0, 0.1, 1.0])
def test_linear(end):
    found = rates(name="linear", warmup=20, end=end)
    assert found[20:] == pytest.approx([1 - (1 - end) * step / 80 for step in range(81)], abs=1e-6)
    assert found[-1] == pytest.approx(end, abs=1e-7)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine(end):
    found = rates(name="cosine", warmup=20, end=end)
    wanted = [end + (1 - end) * (1 + math.cos(math.pi * step / 80)) / 2 for step in range(81)]
    assert found[20:] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 25])
def test_inverse_square_root(warmup):
    """Proportional to `step ** -0.5` counted from the beginning of the run (Vaswani et al. 2017)."""
    found = rates(name="inverse_square_root", warmup=warmup)
    if warmup:
        assert found[warmup:] == pytest.approx([math.sqrt(warmup / step) for step in range(warmup, 101)], rel=1e-5)
    else:
        assert found == pytest.approx([1 / math.sqrt(step + 1) for step in range(101)], rel=1e-5)


@pytest.mark.parametrize("decay", [20, 0.2])
def test_warmup_stable_decay(decay):
    found = rates(name="warmup_stable_decay", warmup=10, decay=decay, end=0.5)
    assert found[10:81] == pytest.approx(1)
    assert found[80:] == pytest.approx([1 - 0.5 * step / 20 for step in range(21)], abs=1e-6)


def test_a_decay_longer_than_what_warmup_leaves_begins_at_once():
    found = rates(name="warmup_stable_decay", warmup=60, decay=90)
    assert found[60:] == pytest.approx([1 - step / 40 for step in range(41)], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_the_steps_is_as_good_as_their_number(name):
    shares = rates(200, name=name, warmup=0.1, decay=0.25)
    assert shares.tolist() == rates(200, name=name, warmup=20, decay=50).tolist()
    assert shares.tolist() != rates(200, name=name, warmup=0.2, decay=0.25).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_peak_only_scales(name):
    schedules = [make_schedule(ScheduleConfig(name), peak, 50) for peak in (1e-3, 1.0)]
    for step in range(51):
        assert float(schedules[0](step)) == pytest.approx(1e-3 * float(schedules[1](step)), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"warmup": -0.1}, {"warmup": 1.5}, {"decay": -1}, {"decay": 2.5}, {"end": -0.1}, {"end": 1.1}]
)
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField) as raised:
        ScheduleConfig(**options)
    assert raised.value.field in options
