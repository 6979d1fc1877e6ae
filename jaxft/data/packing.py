"""Which pieces of which records stand in which row of fixed length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxft.data.permutation import permute


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of tokens of one record.

    Attributes:
      index: number of the piece among all pieces of its store; keys its random choices.
      record: index of the record.
      start: first token.
      stop: one past the last token.
    """

    index: int
    record: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class RowPlan:
    """All rows of a store: row `r` holds the pieces `order[starts[r]:starts[r + 1]]`.

    Attributes:
      records: int64 `(pieces,)`, record of each piece.
      offsets: int64 `(pieces,)`, first token of each piece in its record.
      lengths: int64 `(pieces,)`, tokens of each piece.
      order: int64 `(pieces,)`, pieces in the order of rows.
      starts: int64 `(rows + 1,)`.
      first: added to the numbers of pieces, where this is a part of a larger plan.
    """

    records: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    first: int = 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> list[Piece]:
        """The pieces of a row, in their order in it."""
        pieces = self.order[self.starts[number] : self.starts[number + 1]]
        return [
            Piece(
                self.first + int(i), int(self.records[i]), int(self.offsets[i]), int(self.offsets[i] + self.lengths[i])
            )
            for i in pieces
        ]

    def shuffled(self, places: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Rows that stand at these places of an epoch, int64."""
        return permute(places, len(self), key)


def split_records(lengths: np.ndarray, longest: int, overlap: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts records into pieces of at most `longest` tokens, of nearly equal length within a record.

    Equal pieces rather than full ones and a short rest: a rest of one or two tokens teaches nothing. Pieces that
    overlap are full ones instead, whose starts lie evenly.

    Args:
      lengths: int64 `(records,)`, each at least 1.
      longest: tokens that a row can hold.
      overlap: tokens that a piece shares at least with the next one, less than `longest`.

    Returns:
      Three int64 arrays `(pieces,)`: record, first token and length of each piece.
    """
    counts = np.maximum(-(-(lengths - overlap) // (longest - overlap)), 1)
    records = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(records)) - np.repeat(np.cumsum(counts) - counts, counts)
    if overlap:
        sizes = np.minimum(lengths, longest)[records]
        return records, within * (lengths[records] - sizes) // np.maximum(counts[records] - 1, 1), sizes
    offsets = within * lengths[records] // counts[records]
    ends = (within + 1) * lengths[records] // counts[records]
    return records, offsets, ends - offsets


def plan_rows(
    lengths: np.ndarray,
    capacity: int,
    longest: int,
    room: Callable[[np.ndarray], np.ndarray],
    *,
    pack: bool,
    truncate: bool,
    overlap: int = 0,
    seed: int = 0,
) -> RowPlan:
    """Plans the rows of a store.

    Args:
      lengths: int64 `(records,)`, tokens of each record, without special tokens.
      capacity: tokens of a row.
      longest: tokens of the longest piece that a row can hold.
      room: from lengths of pieces, int64, to what they take of the capacity, int64.
      pack: whether several pieces may share a row; the pieces are then shuffled before they are laid first-fit.
      truncate: whether a long record is cut to one piece (a classified text) or split into several (plain text).
      overlap: tokens that neighbouring pieces of a record share at least.
      seed: of the shuffle before packing.
    """
    lengths = np.asarray(lengths, np.int64)
    if truncate:
        records, sizes = np.arange(len(lengths)), np.minimum(lengths, longest)
        offsets = np.zeros_like(sizes)
    else:
        records, offsets, sizes = split_records(lengths, longest, overlap)
    if not pack:
        count = len(records)
        return RowPlan(records, offsets, sizes, np.arange(count), np.arange(count + 1))
    shuffled = permute(np.arange(len(records)), len(records), (seed,))
    rows = _first_fit(room(sizes[shuffled]), capacity)
    order = shuffled[np.argsort(rows, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows))])
    return RowPlan(records, offsets, sizes, order, starts)


def _first_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Row of each piece: the first open row with room; rows that are nearly full are closed.

    Open rows are kept by their free room, so a piece finds its place in constant time: it takes the tightest of the
    open rows that have room (best fit), which fills rows at least as well as the first one with room.
    """
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rows = np.empty(len(sizes), np.int64)
    count = 0
    for i, size in enumerate(sizes.tolist()):
        room = next((free for free in range(size, capacity + 1) if by_room[free]), None)
        if room is None:
            row, room = count, capacity
            count += 1
        else:
            row = by_room[room].pop()
        rows[i] = row
        by_room[room - size].append(row)
    return rows
