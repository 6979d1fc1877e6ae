"""Metrics of vectors and scores, beside scipy's and beside sums over all pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxft.errors import DataError
from jaxft.evaluation.similarity import alignment, pearson, spearman, uniformity


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_those_of_scipy(seed, ties):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=60)
    given = 0.5 * scores**3 + generator.normal(size=60)
    if ties:  # as people's scores have
        scores, given = np.round(scores), np.round(given)
        assert len(set(given.tolist())) < 30
    assert spearman(scores, given) == pytest.approx(stats.spearmanr(scores, given).statistic)
    assert pearson(scores, given) == pytest.approx(stats.pearsonr(scores, given).statistic)


def test_only_the_order_counts_for_ranks():
    given = np.array([0.1, 0.5, 2.0, 3.0, 9.0])
    assert spearman(np.exp(given), given) == pytest.approx(1) and spearman(-given, given) == pytest.approx(-1)
    assert pearson(2 * given + 1, given) == pytest.approx(1) and pearson(np.exp(given), given) < 0.95


@pytest.mark.parametrize("metric", [spearman, pearson])
def test_what_never_changes_is_correlated_with_nothing(metric):
    assert metric(np.ones(5), np.arange(5)) == metric(np.arange(5), np.ones(5)) == 0.0
    assert metric(np.ones(1), np.ones(1)) == 0.0


@pytest.mark.parametrize("metric", [spearman, pearson])
def test_a_correlation_is_a_number_whatever_the_size_of_the_values(metric):
    scores, given = np.array([1.0, 3.0, 2.0, 5.0]), np.array([2.0, 3.0, 1.0, 4.0])
    wanted = metric(scores, given)
    for scale in (1e-200, 1e200):
        assert metric(scores * scale, given * scale) == pytest.approx(wanted)
    with pytest.raises(DataError, match="number 3 is nan"):
        metric(np.array([1.0, 2.0, np.nan]), np.arange(3.0))
    with pytest.raises(DataError, match="there must be as many"):
        metric(scores, given[:3])


def test_what_changes_by_rounding_alone_is_constant():
    values = 0.1 + np.array([0.0, 1.0, 0.0, -1.0]) * 2**-56
    assert np.ptp(values) > 0
    assert pearson(values, np.arange(4.0)) == 0.0


def vectors_of(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 2, 5))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_alignment_is_the_mean_squared_distance_of_partners():
    vectors = vectors_of(30)
    wanted = np.mean([sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in vectors.astype(float)])
    assert alignment(vectors) == pytest.approx(wanted, rel=1e-6)
    assert alignment(np.repeat(vectors[:, :1], 2, axis=1)) == 0
    assert alignment(np.stack([vectors[:, 0], -vectors[:, 0]], axis=1)) == pytest.approx(4, rel=1e-6)


def test_uniformity_is_a_mean_over_all_pairs():
    vectors = vectors_of(40)
    first = vectors[:, 0].astype(float)
    sums = [math.exp(-2 * ((a - b) ** 2).sum()) for a, b in itertools.combinations(first, 2)]
    assert uniformity(vectors) == pytest.approx(math.log(np.mean(sums)), rel=1e-5)
    # The second of each are not used.
    assert uniformity(np.stack([vectors[:, 0], vectors[::-1, 1]], axis=1)) == uniformity(vectors)


def test_uniformity_of_more_vectors_than_fit_into_a_block():
    vectors = vectors_of(1500)
    first = vectors[:, 0].astype(float)
    distances = ((first[:, None] - first[None]) ** 2).sum(-1)
    wanted = math.log(np.exp(-2 * distances[np.triu_indices(1500, 1)]).mean())
    assert uniformity(vectors) == pytest.approx(wanted, rel=1e-6)


def test_equal_vectors_are_not_uniform_at_all():
    assert uniformity(np.repeat(vectors_of(1), 7, axis=0)) == pytest.approx(0, abs=1e-6)
    assert uniformity(vectors_of(1)) == 0.0
    opposite = np.stack([vectors_of(1)[0], -vectors_of(1)[0]])
    assert uniformity(opposite) == pytest.approx(-8, rel=1e-6)
