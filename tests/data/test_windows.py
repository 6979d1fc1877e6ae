"""Plans by windows: nothing lost or doubled, full rows, and the same rows in whatever order they are asked for."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest

from jaxft.data import windows
from jaxft.data.packing import plan_rows
from jaxft.data.windows import WindowedPlan

CAPACITY, OVERHEAD = 64, 2
LONGEST = CAPACITY - OVERHEAD


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 512)
    monkeypatch.setattr(windows, "_BLOCK", 700)


def room(sizes: np.ndarray) -> np.ndarray:
    return sizes + OVERHEAD


def lengths_of(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = {
        "text": lambda: np.minimum(rng.lognormal(3, 1.2, count), 5000),
        "short": lambda: rng.integers(1, 9, count),
        "long": lambda: rng.integers(100, 900, count),
        # Pieces of just over half a row never share one: more rows are needed than their room says.
        "halves": lambda: np.where(rng.random(count) < 0.5, 33, 4),
        "equal": lambda: np.full(count, 20),
    }
    return np.maximum(made[kind](), 1).astype(np.int32)


def plan_of(lengths, pack=True, truncate=False, seed=0) -> WindowedPlan:
    return WindowedPlan(lengths, CAPACITY, LONGEST, room, pack=pack, truncate=truncate, seed=seed)


@pytest.mark.parametrize("kind", ["text", "short", "long", "halves", "equal"])
@pytest.mark.parametrize("count", [300, 512, 1024, 3000])
@pytest.mark.parametrize(("pack", "truncate"), [(True, False), (False, False), (False, True)])
def test_every_token_is_in_one_row(kind, count, pack, truncate):
    lengths = lengths_of(kind, count)
    plan = plan_of(lengths, pack, truncate)
    covered = [np.zeros(length, int) for length in lengths]
    indices = set()
    for number in range(len(plan)):
        pieces = plan.row(number)
        assert pieces and (pack or len(pieces) == 1)
        assert sum(piece.stop - piece.start + OVERHEAD for piece in pieces) <= CAPACITY
        for piece in pieces:
            covered[piece.record][piece.start : piece.stop] += 1
            assert piece.index not in indices
            indices.add(piece.index)
    for length, seen in zip(lengths, covered, strict=True):
        expected = np.arange(length) < LONGEST if truncate else np.ones(length)
        np.testing.assert_array_equal(seen, expected)


def test_a_window_with_too_few_rows_splits_its_last_texts(monkeypatch):
    monkeypatch.setattr(windows, "_SPARE", -2)  # so that most windows need more rows than they get
    lengths = lengths_of("halves", 3000)
    plan = plan_of(lengths)
    pieces = [piece for number in range(len(plan)) for piece in plan.row(number)]
    assert sum(piece.stop - piece.start for piece in pieces) == lengths.sum()
    assert len({piece.index for piece in pieces}) == len(pieces) > sum(-(-int(n) // LONGEST) for n in lengths)
    for number in range(len(plan)):
        assert sum(piece.stop - piece.start + OVERHEAD for piece in plan.row(number)) <= CAPACITY


def test_rows_of_typical_text_are_full(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 1 << 14)
    lengths = lengths_of("text", 1 << 16)
    plan = WindowedPlan(lengths, 512, 510, room, pack=True, truncate=False)
    assert plan.fill > 0.95


@pytest.mark.parametrize(("pack", "truncate"), [(True, False), (False, False), (False, True)])
def test_an_epoch_is_a_permutation_of_all_rows(pack, truncate):
    plan = plan_of(lengths_of("text", 3000), pack, truncate)
    places = np.arange(len(plan))
    first, second = plan.shuffled(places, (0, 0)), plan.shuffled(places, (0, 1))
    for rows in (first, second):
        assert sorted(rows.tolist()) == places.tolist()
    assert (first != second).mean() > 0.9
    some = np.array([5, len(plan) - 1, 17])
    assert plan.shuffled(some, (0, 1)).tolist() == second[some].tolist()


def test_rows_do_not_depend_on_what_was_asked_before(tmp_path, monkeypatch):
    np.save(tmp_path / "lengths.npy", lengths_of("text", 3000))
    plan = plan_of(np.load(tmp_path / "lengths.npy", mmap_mode="r"))
    asked = np.random.default_rng(1).integers(0, len(plan), 200).tolist()
    rows = [plan.row(number) for number in asked]
    monkeypatch.setattr(windows, "_KEPT", 1)
    again = pickle.loads(pickle.dumps(plan))
    assert len(pickle.dumps(plan)) < 20_000  # the lengths travel by name
    assert [again.row(number) for number in reversed(asked)] == rows[::-1]


def test_seeds_pack_differently():
    lengths = lengths_of("text", 3000)
    neighbours = [
        collections.Counter(tuple(sorted(p.record for p in plan.row(i))) for i in range(len(plan)))
        for plan in (plan_of(lengths, seed=1), plan_of(lengths, seed=2))
    ]
    assert (neighbours[0] & neighbours[1]).total() < 0.5 * neighbours[0].total()


def test_overlapping_pieces_are_those_of_a_plan_at_once():
    lengths = lengths_of("text", 3000)
    arguments = {"pack": False, "truncate": False, "overlap": LONGEST // 3}
    windowed, whole = (
        WindowedPlan(lengths, CAPACITY, LONGEST, room, **arguments),
        plan_rows(lengths, CAPACITY, LONGEST, room, **arguments),
    )
    places = [
        [(piece.record, piece.start, piece.stop) for n in range(len(plan)) for piece in plan.row(n)]
        for plan in (windowed, whole)
    ]
    assert places[0] == places[1] and len(places[0]) > len(lengths)
    with pytest.raises(ValueError, match="overlap"):
        WindowedPlan(lengths, CAPACITY, LONGEST, room, pack=True, truncate=False, overlap=1)
