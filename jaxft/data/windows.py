"""Rows of stores too large to be planned at once: planned window by window, when a row of it is first asked for.

Starting costs one pass over the lengths, and memory does not grow with the store. How many rows a window has is known
before it is planned: packed windows hold a fixed number of random records and get a fixed number of rows, enough for
all but one window of many thousands; in that one, the last texts are split into what is left.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxft.data.packing import Piece, RowPlan, plan_rows, split_records
from jaxft.data.permutation import permute
from jaxft.errors import DataError

# Records of a window.
WINDOW = 1 << 16
# Standard deviations by which the room of a packed window exceeds what its records take on average.
_SPARE = 4
# Windows that are planned at the start, to see how full rows become.
_TRIED = 2
_KEPT = 16
_BLOCK = 1 << 22

Room = Callable[[np.ndarray], np.ndarray]


class WindowedPlan:
    """As `jaxft.data.packing.RowPlan`, for stores of any size.

    Attributes:
      starts: int64 `(windows + 1,)`, first row of each window.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        capacity: int,
        longest: int,
        room: Room,
        *,
        pack: bool,
        truncate: bool,
        overlap: int = 0,
        seed: int = 0,
    ):
        """
        Args:
          lengths: int32 `(records,)`, tokens of each record; a memory map is not read into memory.
          capacity: tokens of a row.
          longest: tokens of the longest piece that a row can hold.
          room: from lengths of pieces to what they take of the capacity.
          pack: whether several pieces may share a row.
          truncate: whether a long record is cut to one piece rather than split; not together with `pack`.
          overlap: tokens that neighbouring pieces of a record share at least; not together with `pack`.
          seed: of the shuffle before packing.
        """
        if pack and (truncate or overlap):
            raise ValueError("texts that are packed and cut, or overlap, cannot be planned window by window")
        self._lengths, self._capacity, self._longest, self._room = lengths, capacity, longest, room
        self._pack, self._truncate, self._overlap, self._seed = pack, truncate, overlap, seed
        self._planned: collections.OrderedDict[int, RowPlan] = collections.OrderedDict()
        self._total_room, self._deviation = self._room_of_all()
        windows = -(-len(lengths) // WINDOW)
        counts = self._packed_counts(windows) if pack else self._unpacked_counts(windows)
        self.starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def fill(self) -> float:
        """Share of the places of all rows that pieces take."""
        return self._total_room / (len(self) * self._capacity)

    def row(self, number: int) -> list[Piece]:
        """The pieces of a row, in their order in it."""
        window = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self._window(window).row(number - int(self.starts[window]))

    def shuffled(self, places: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Rows that stand at these places of an epoch: windows in a random order, and rows within each."""
        windows = len(self.starts) - 1
        order = permute(np.arange(windows), windows, key)
        sizes = np.diff(self.starts)[order]
        begins = np.concatenate([[0], np.cumsum(sizes)])
        found = np.searchsorted(begins, places, side="right") - 1
        rows = np.empty_like(places)
        for position in np.unique(found).tolist():
            here, window = found == position, int(order[position])
            within = permute(places[here] - begins[position], int(sizes[position]), (*key, window))
            rows[here] = self.starts[window] + within
        return rows

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_planned": collections.OrderedDict()}
        if isinstance(self._lengths, np.memmap):  # by name, not by value
            state["_lengths"] = str(self._lengths.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._lengths, str):
            self._lengths = np.load(self._lengths, mmap_mode="r")

    # --- How many rows each window has ---

    def _packed_counts(self, windows: int) -> np.ndarray:
        # The last window may be small, and gets what it needs.
        last = len(self._planned_freely(windows - 1))
        if windows == 1:
            return np.array([last])
        tried = [self._planned_freely(window) for window in np.linspace(0, windows - 2, _TRIED).astype(int).tolist()]
        needed = max(len(plan) / int(self._room(plan.lengths).sum()) for plan in tried)
        room = self._total_room / len(self._lengths) * WINDOW + _SPARE * self._deviation * math.sqrt(WINDOW)
        return np.array([math.ceil(room * needed) + 1] * (windows - 1) + [last], np.int64)

    def _unpacked_counts(self, windows: int) -> np.ndarray:
        if self._truncate:
            return np.diff(np.minimum(np.arange(windows + 1) * WINDOW, len(self._lengths)))
        counts = np.zeros(windows, np.int64)
        for window in range(windows):
            part = self._lengths[window * WINDOW : (window + 1) * WINDOW]
            counts[window] = len(split_records(np.asarray(part, np.int64), self._longest, self._overlap)[0])
        return counts

    def _room_of_all(self) -> tuple[int, float]:
        """Room of all records, and the standard deviation of that of one, by a histogram of their lengths."""
        counts = np.zeros(1, np.int64)
        for start in range(0, len(self._lengths), _BLOCK):
            block = np.asarray(self._lengths[start : start + _BLOCK])
            more = np.bincount(np.minimum(block, self._longest) if self._truncate else block, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        found = np.flatnonzero(counts)
        if self._truncate:
            rooms = self._room(found)
        else:
            records, _, sizes = split_records(found, self._longest, self._overlap)
            rooms = np.bincount(records, self._room(sizes))
        total = float((rooms * counts[found]).sum())
        squares = float((np.square(rooms, dtype=np.float64) * counts[found]).sum())
        mean = total / len(self._lengths)
        return round(total), math.sqrt(max(squares / len(self._lengths) - mean**2, 0.0))

    # --- Planning a window ---

    def _window(self, window: int) -> RowPlan:
        if window in self._planned:
            self._planned.move_to_end(window)
            return self._planned[window]
        plan = self._planned_freely(window)
        wanted = int(self.starts[window + 1] - self.starts[window])
        if len(plan) != wanted:
            plan = self._with_rows(plan, wanted)
        self._planned[window] = plan
        if len(self._planned) > _KEPT:
            self._planned.popitem(last=False)
        return plan

    def _planned_freely(self, window: int) -> RowPlan:
        """A window with as many rows as it needs; numbers of pieces and records are those of the whole store."""
        places = np.arange(window * WINDOW, min((window + 1) * WINDOW, len(self._lengths)))
        chosen = permute(places, len(self._lengths), (self._seed, WINDOW)) if self._pack else places
        chosen = np.sort(chosen)  # read in the order of the disk
        plan = plan_rows(
            np.asarray(self._lengths[chosen]),
            self._capacity,
            self._longest,
            self._room,
            pack=self._pack,
            truncate=self._truncate,
            overlap=self._overlap,
            seed=self._seed + window,
        )
        return RowPlan(chosen[plan.records], plan.offsets, plan.lengths, plan.order, plan.starts, first=window << 32)

    def _with_rows(self, plan: RowPlan, wanted: int) -> RowPlan:
        """The same pieces in a given number of rows."""
        rows = [plan.order[plan.starts[i] : plan.starts[i + 1]].tolist() for i in range(len(plan))]
        pieces = _Pieces(plan.records.tolist(), plan.offsets.tolist(), plan.lengths.tolist())
        if len(rows) > wanted:
            rows, over = rows[:wanted], [piece for row in rows[wanted:] for piece in row]
            self._fill_gaps(rows, over, pieces)
        else:
            _spread(rows, wanted, pieces)
        starts = np.cumsum([0, *map(len, rows)])
        order = np.array([piece for row in rows for piece in row], np.int64)
        records, offsets, lengths = (np.array(part, np.int64) for part in pieces)
        return RowPlan(records, offsets, lengths, order, starts, first=plan.first)

    def _fill_gaps(self, rows: list[list[int]], over: list[int], pieces: _Pieces) -> None:
        """Splits the pieces of rows that are too many into what the others leave free."""
        rooms = self._room(np.arange(self._longest + 1))
        taken = self._room(np.array(pieces.lengths, np.int64))
        gaps = [self._capacity - int(taken[row].sum()) for row in rows]
        for place in sorted(range(len(rows)), key=lambda i: -gaps[i]):
            # The longest text that fits into the gap.
            while over and (fits := int(np.searchsorted(rooms, gaps[place], side="right")) - 1) >= 1:
                piece = over.pop()
                length = min(fits, pieces.lengths[piece])
                if rest := pieces.lengths[piece] - length:
                    over.append(pieces.add(pieces.records[piece], pieces.offsets[piece] + length, rest))
                    pieces.lengths[piece] = length
                rows[place].append(piece)
                gaps[place] -= int(rooms[length])
        if over:
            raise DataError("the lengths of these texts are so uneven that they cannot be packed window by window")


class _Pieces(collections.namedtuple("_Pieces", ("records", "offsets", "lengths"))):
    """Lists of what is known of pieces."""

    def add(self, record: int, offset: int, length: int) -> int:
        """A further piece; its number."""
        self.records.append(record)
        self.offsets.append(offset)
        self.lengths.append(length)
        return len(self.records) - 1


def _spread(rows: list[list[int]], wanted: int, pieces: _Pieces) -> None:
    """Makes further rows out of pieces that share one, and then of halves of pieces, until there are enough."""
    for row in sorted(rows, key=len, reverse=True):
        while len(row) > 1 and len(rows) < wanted:
            rows.append([row.pop()])
    for (piece,) in rows[: wanted - len(rows)] if len(rows) < wanted else ():
        half = pieces.lengths[piece] // 2
        if half:
            rows.append([pieces.add(pieces.records[piece], pieces.offsets[piece] + half, pieces.lengths[piece] - half)])
            pieces.lengths[piece] = half
    if len(rows) < wanted:
        raise DataError("these texts are too short for the rows that their lengths promised")
