"""Rows: every token of every record exactly once, never more than fits, and rows nearly full."""

from __future__ import annotations

import numpy as np
import pytest

from jaxft.data.packing import plan_rows, split_records


def realistic_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Log-normal, as lengths of documents and reviews are."""
    return np.clip(np.random.default_rng(seed).lognormal(4.2, 0.9, count).astype(np.int64), 1, 20_000)


def pieces_of(plan):
    return [piece for number in range(len(plan)) for piece in plan.row(number)]


SHAPES = [
    pytest.param(realistic_lengths(800), 128, 2, id="realistic"),
    pytest.param(np.ones(300, np.int64), 16, 2, id="single tokens"),
    pytest.param(np.full(50, 14), 16, 2, id="exactly full"),
    pytest.param(np.full(50, 15), 16, 2, id="one too long"),
    pytest.param(np.array([1]), 4, 2, id="one token"),
    pytest.param(np.array([10_000]), 4, 2, id="one long record"),
    pytest.param(np.random.default_rng(1).integers(1, 40, 500), 17, 0, id="no overhead"),
]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("lengths", "capacity", "overhead"), SHAPES)
def test_every_token_stands_in_exactly_one_row(lengths, capacity, overhead, pack):
    plan = plan_rows(lengths, capacity, capacity - overhead, lambda sizes: sizes + overhead, pack=pack, truncate=False)
    seen = [np.zeros(length, int) for length in lengths]
    for piece in pieces_of(plan):
        assert 0 <= piece.start < piece.stop <= lengths[piece.record]
        seen[piece.record][piece.start : piece.stop] += 1
    assert all((counts == 1).all() for counts in seen)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(("lengths", "capacity", "overhead"), SHAPES)
def test_no_row_holds_too_much_or_nothing(lengths, capacity, overhead, pack, truncate):
    plan = plan_rows(
        lengths, capacity, capacity - overhead, lambda sizes: sizes + overhead, pack=pack, truncate=truncate
    )
    for number in range(len(plan)):
        row = plan.row(number)
        assert row
        assert sum(piece.stop - piece.start + overhead for piece in row) <= capacity


@pytest.mark.parametrize("pack", [True, False])
def test_pieces_have_numbers_of_their_own(pack):
    plan = plan_rows(realistic_lengths(300), 64, 64 - 2, lambda sizes: sizes + 2, pack=pack, truncate=False)
    indices = [piece.index for piece in pieces_of(plan)]
    assert sorted(indices) == list(range(len(indices)))


def test_the_number_of_a_piece_does_not_depend_on_packing():
    """It keys the piece's random choices, which must be the same in packed and unpacked rows."""
    lengths = realistic_lengths(300)
    plans = [
        plan_rows(lengths, 64, 64 - 2, lambda sizes: sizes + 2, pack=pack, truncate=False, seed=seed)
        for pack, seed in ((True, 0), (True, 1), (False, 0))
    ]
    named = [{piece.index: (piece.record, piece.start, piece.stop) for piece in pieces_of(plan)} for plan in plans]
    assert named[0] == named[1] == named[2]


def test_pieces_of_a_record_are_as_few_and_as_equal_as_can_be():
    lengths = np.concatenate([np.arange(1, 200), realistic_lengths(200)])
    records, offsets, sizes = split_records(lengths, 30)
    for record, length in enumerate(lengths):
        mine = sizes[records == record]
        assert len(mine) == int(np.ceil(length / 30))
        assert mine.sum() == length
        assert mine.max() - mine.min() <= 1
        assert offsets[records == record].tolist() == [0, *np.cumsum(mine)[:-1].tolist()]


def test_truncation_keeps_the_beginning_of_each_record():
    lengths = np.array([5, 14, 15, 300])
    plan = plan_rows(lengths, 16, 16 - 2, lambda sizes: sizes + 2, pack=False, truncate=True)
    assert [(p.record, p.start, p.stop) for p in pieces_of(plan)] == [(0, 0, 5), (1, 0, 14), (2, 0, 14), (3, 0, 14)]


def test_without_packing_each_piece_has_a_row_and_records_keep_their_order():
    plan = plan_rows(np.array([3, 40, 2]), 16, 16 - 2, lambda sizes: sizes + 2, pack=False, truncate=False)
    assert all(len(plan.row(number)) == 1 for number in range(len(plan)))
    assert [piece.record for piece in pieces_of(plan)] == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(("capacity", "seed"), [(256, 0), (512, 1), (1024, 2)])
def test_rows_are_at_least_95_percent_full(capacity, seed):
    """Where a row holds several typical texts; the median here is 67 tokens."""
    plan = plan_rows(
        realistic_lengths(4000, seed), capacity, capacity - 2, lambda sizes: sizes + 2, pack=True, truncate=False
    )
    filled = sum(piece.stop - piece.start + 2 for piece in pieces_of(plan))
    assert filled / (len(plan) * capacity) >= 0.95


@pytest.mark.parametrize("capacity", [64, 96, 128, 192, 256, 512])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_packing_could_do_with_much_fewer_rows(capacity, seed):
    plan = plan_rows(
        realistic_lengths(3000, seed), capacity, capacity - 2, lambda sizes: sizes + 2, pack=True, truncate=False
    )
    sizes = np.array([piece.stop - piece.start + 2 for piece in pieces_of(plan)])
    assert len(plan) <= 1.04 * fewest_rows(sizes, capacity)


def fewest_rows(sizes: np.ndarray, capacity: int) -> int:
    """A lower bound for any packing (Martello and Toth 1990, L2): pieces over half a row never share one."""
    best = 0
    for least in range(1, capacity // 2 + 1):
        alone, large = sizes > capacity - least, (sizes <= capacity - least) & (sizes > capacity / 2)
        small = (sizes >= least) & (sizes <= capacity / 2)
        rest = sizes[small].sum() - (large.sum() * capacity - sizes[large].sum())
        best = max(best, alone.sum() + large.sum() + max(0, -(-rest // capacity)))
    return best


def test_small_pieces_fill_the_rows_of_large_ones():
    lengths = np.array([10] * 50 + [2] * 50)  # 12 and 4 with their special tokens
    assert 50 <= len(plan_rows(lengths, 16, 16 - 2, lambda sizes: sizes + 2, pack=True, truncate=False)) <= 53


def test_the_same_seed_packs_the_same_rows_and_another_mixes_others():
    lengths = realistic_lengths(500)
    one, again, other = (
        plan_rows(lengths, 128, 128 - 2, lambda sizes: sizes + 2, pack=True, truncate=False, seed=seed)
        for seed in (4, 4, 5)
    )
    rows = lambda plan: [[p.index for p in plan.row(number)] for number in range(len(plan))]  # noqa: E731
    assert rows(one) == rows(again)
    together = lambda plan: {tuple(sorted(row)) for row in rows(plan) if len(row) > 1}  # noqa: E731
    assert len(together(one) & together(other)) < 0.1 * len(together(one))


def test_neighbouring_records_are_not_packed_together_more_than_by_chance():
    plan = plan_rows(np.full(1000, 6), 16, 16 - 2, lambda sizes: sizes + 2, pack=True, truncate=False)  # pairs
    neighbours = sum(abs(a.record - b.record) == 1 for a, b in (plan.row(number) for number in range(len(plan))))
    assert neighbours < 10  # one is expected, 500 without a shuffle


@pytest.mark.parametrize(("longest", "overlap"), [(30, 1), (30, 10), (30, 29), (7, 3)])
def test_pieces_that_overlap_are_full_and_share_what_was_asked_for(longest, overlap):
    lengths = np.arange(1, 200)
    records, offsets, sizes = split_records(lengths, longest, overlap)
    for record, length in enumerate(lengths.tolist()):
        own = records == record
        starts, ends = offsets[own], offsets[own] + sizes[own]
        assert starts[0] == 0 and ends[-1] == length
        assert (sizes[own] == min(length, longest)).all()
        assert (ends[:-1] - starts[1:] >= overlap).all() and (np.diff(starts) > 0).all()
        # With one piece less they could not cover the text.
        assert own.sum() == 1 or (own.sum() - 1) * (longest - overlap) + overlap < length


def test_pieces_of_texts_that_fit_do_not_depend_on_the_overlap():
    lengths = np.arange(1, 31)
    for plain, overlapping in zip(split_records(lengths, 30), split_records(lengths, 30, 10), strict=True):
        np.testing.assert_array_equal(plain, overlapping)
