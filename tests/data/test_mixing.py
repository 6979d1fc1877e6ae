"""Mixtures: exact shares at every point, every row of a source once and in order, and stages."""

from __future__ import annotations

import numpy as np
import pytest

from jaxft.data.mixing import MixingConfig, Mixture, StageConfig, make_mixture
from jaxft.errors import InvalidField

SHARES = [(0.5, 0.5), (0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.001, 0.999), (0.9, 0.05, 0.03, 0.02), (1.0,)]


@pytest.mark.parametrize("shares", SHARES)
def test_every_beginning_holds_the_shares_and_every_source_goes_on_row_by_row(shares):
    sources, indices = Mixture((0,), (shares,)).rows(np.arange(20_000))
    for source, share in enumerate(shares):
        own = indices[sources == source]
        np.testing.assert_array_equal(own, np.arange(len(own)))  # none twice, none left out
        counts = np.cumsum(sources == source)
        assert np.abs(counts - share * np.arange(1, 20_001)).max() < len(shares)


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.0, 0.5)])
def test_a_share_of_nothing_gives_nothing(shares):
    sources, _ = Mixture((0,), (shares,)).rows(np.arange(1000))
    assert set(sources.tolist()) == {i for i, share in enumerate(shares) if share}


def test_rows_far_away_cost_nothing_and_agree_with_those_before_them():
    mixture = Mixture((0,), ((0.6, 0.3, 0.1),))
    far = 10**12
    sources, indices = mixture.rows(np.arange(far, far + 10))
    again = [mixture.rows(np.array([number])) for number in range(far, far + 10)]
    assert sources.tolist() == [int(s[0]) for s, _ in again] and indices.tolist() == [int(i[0]) for _, i in again]
    assert indices[sources == 0][0] == pytest.approx(0.6 * far, rel=1e-5)


def test_stages_change_shares_and_sources_go_on_where_they_were():
    config = MixingConfig((1.0, 3.0), stages=(StageConfig(10, (1.0, 0.0)), StageConfig(0.5, (0.0, 1.0))))
    mixture = make_mixture(config, [5, 5], batch_size=8, total_steps=100)
    sources, indices = mixture.rows(np.arange(800))
    counts = [np.bincount(part, minlength=2).tolist() for part in np.split(sources, [80, 400])]
    assert counts == [[20, 60], [320, 0], [0, 400]]
    for source in (0, 1):
        np.testing.assert_array_equal(indices[sources == source], np.arange((sources == source).sum()))


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 100 / 101), (2.0, 10 / 11), (1e9, 0.5)])
def test_temperature_flattens_shares_by_size(temperature, expected):
    mixture = make_mixture(MixingConfig(temperature=temperature), [10_000, 100], batch_size=4, total_steps=10)
    assert mixture.shares[0][0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: MixingConfig((1.0, -1.0)), "weights"),
        (lambda: MixingConfig((0.0, 0.0)), "weights"),
        (lambda: MixingConfig((float("nan"), 1.0)), "weights"),
        (lambda: MixingConfig(temperature=0), "temperature"),
        (lambda: MixingConfig((1.0, 2.0), temperature=2.0), "temperature"),
        (lambda: StageConfig(0, (1.0,)), "start"),
        (lambda: StageConfig(1.5, (1.0,)), "start"),
        (
            lambda: make_mixture(MixingConfig(stages=(StageConfig(9, (1, 1)), StageConfig(3, (1, 1)))), [1, 1], 2, 10),
            "stages",
        ),
    ],
)
def test_impossible_mixtures_are_refused(make, field):
    with pytest.raises(InvalidField) as error:
        make()
    assert error.value.field == field
