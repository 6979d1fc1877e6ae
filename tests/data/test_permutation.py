"""A permutation by formula: a bijection for every size, well mixed, and the same element by element."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from jaxft.data.permutation import permute


@pytest.mark.parametrize("size", [*range(1, 71), 127, 128, 129, 1000])
def test_every_element_is_hit_once(size):
    assert sorted(permute(np.arange(size), size, (3, 1))) == list(range(size))


def test_large_sizes_stay_bijective():
    size = 2**17 + 7
    found = permute(np.arange(size), size, (5,))
    assert found.min() == 0 and found.max() == size - 1
    assert np.bincount(found).max() == 1


def test_a_sample_of_2_to_the_20():
    size = 2**20
    asked = np.random.default_rng(0).choice(size, 50_000, replace=False)
    found = permute(asked, size, (0,))
    assert len(np.unique(found)) == 50_000
    assert found.min() >= 0 and found.max() < size


def test_a_size_that_could_not_be_stored():
    size = 10**12
    asked = np.concatenate([np.arange(5000), size - 1 - np.arange(5000)])
    found = permute(asked, size, (0,))
    assert len(np.unique(found)) == len(asked)
    assert found.min() >= 0 and found.max() < size
    # Uniform over the whole range, not over the next power of two or its beginning.
    assert stats.kstest(found / size, "uniform").pvalue > 1e-4


def test_all_elements_at_once_or_one_by_one():
    for size in (1, 2, 37, 1000):
        together = permute(np.arange(size), size, (9, 2))
        assert [int(permute(np.array(i), size, (9, 2))) for i in range(size)] == together.tolist()
        reverse = permute(np.arange(size)[::-1].reshape(-1, 1), size, (9, 2))
        assert reverse.shape == (size, 1)
        assert reverse[::-1, 0].tolist() == together.tolist()


def test_the_arguments_are_left_alone():
    indices = np.arange(10)
    permute(indices, 10, (0,))
    assert indices.tolist() == list(range(10))


def test_other_seeds_and_sizes_give_other_permutations():
    seeds = [(seed, epoch) for seed in range(6) for epoch in range(6)]
    found = {seed: permute(np.arange(200), 200, seed) for seed in seeds}
    for one, other in itertools.combinations(seeds, 2):
        # Two independent permutations agree in one place on average.
        assert (found[one] == found[other]).sum() < 10, (one, other)
    assert (permute(np.arange(200), 201, (0,)) == permute(np.arange(200), 200, (0,))).sum() < 10


@pytest.mark.parametrize("size", [7, 16, 24])
def test_each_element_goes_everywhere_equally_often(size):
    seeds = 1500
    places = np.stack([permute(np.arange(size), size, (seed, 0)) for seed in range(seeds)])
    for element in range(size):
        assert stats.chisquare(np.bincount(places[:, element], minlength=size)).pvalue > 1e-6, element


def test_neighbours_do_not_stay_together():
    size, seeds = 60, 2000
    places = np.stack([permute(np.arange(size), size, (seed,)) for seed in range(seeds)])
    distance = (places[:, 1:] - places[:, :-1]) % size
    counts = np.bincount(distance.ravel(), minlength=size)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx(np.full(size - 1, counts.sum() / (size - 1)), rel=0.11)


def test_rises_and_falls_as_a_random_order_does():
    """Longest rising runs with gaps of random permutations are `2 sqrt(n) - 1.77 n**(1/6)` long (Baik 1999)."""
    size = 10_000
    lengths = [longest_rising(permute(np.arange(size), size, (seed,))) for seed in range(10)]
    assert np.mean(lengths) == pytest.approx(2 * size**0.5 - 1.77 * size ** (1 / 6), abs=6)


def longest_rising(values) -> int:
    tails: list[int] = []
    for value in values.tolist():
        place = int(np.searchsorted(tails, value)) if tails else 0
        tails[place : place + 1] = [value]
    return len(tails)
