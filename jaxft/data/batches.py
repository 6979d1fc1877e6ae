"""Batches of one stream, of one source or of a mixture, and of all streams, as a pure function of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from jaxft.data.mixing import Mixture
from jaxft.data.packing import Piece, RowPlan
from jaxft.data.store import Record, TokenStore, cut
from jaxft.data.windows import WindowedPlan

Batch = dict[str, np.ndarray]
# Some rows of a batch.
RowSelection = slice | np.ndarray


class MakeRow(Protocol):
    """Makes one row of a batch from the pieces that share it; a pure function of its arguments."""

    def __call__(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """Arrays of fixed shapes without the batch axis, from records (already cut) and a generator for each."""


@dataclasses.dataclass(frozen=True)
class StreamBatches:
    """The batches of a stream.

    Attributes:
      store: the tokenized source.
      plan: its rows.
      make_row: what the stream's objective makes of a row.
      batch_size: rows of a global batch.
      seed: of shuffling and of every random choice; fixed numbers for evaluation give fixed masks.
      shuffle: whether the rows of each epoch are permuted.
      partner: whether every record is given another one of the store, drawn at random, as its field `partner`.
      filled: copies of the records, which take turns with them, or None.
      augment: changes records before rows are made of them, or None.
    """

    store: TokenStore
    plan: RowPlan | WindowedPlan
    make_row: MakeRow
    batch_size: int
    seed: int
    shuffle: bool = True
    partner: bool = False
    filled: Callable[[list[Record], list[int], list[int]], list[Record]] | None = None
    augment: Callable[[Record, np.random.Generator], Record] | None = None

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self.plan)

    def batch(self, step: int, part: RowSelection = slice(None)) -> Batch:
        """The global batch of a step, or the rows of it that one process holds.

        Rows follow each other over epochs without a gap, so no example is lost at the end of one.
        """
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)[part]
        return collate(self.make_rows(numbers))

    @property
    def stores(self) -> tuple[TokenStore, ...]:
        """What the batches are made of."""
        return (self.store,)

    def final_batches(self) -> int:
        """Number of batches that hold each row once, the last one padded."""
        return -(-self.rows // self.batch_size)

    def padded_batch(self, number: int, part: RowSelection = slice(None)) -> Batch:
        """Batch `number` of one pass over all rows; rows past the end repeat the last one with `row_weight` 0."""
        numbers = np.arange(number * self.batch_size, (number + 1) * self.batch_size, dtype=np.int64)[part]
        batch = collate(self.make_rows(np.minimum(numbers, self.rows - 1)))
        batch["row_weight"] = self.are_real(number)[part].astype(np.float32)
        return batch

    def are_real(self, number: int) -> np.ndarray:
        """Which rows of the whole padded batch are none of the padding, bool `(batch_size,)`."""
        return np.arange(number * self.batch_size, (number + 1) * self.batch_size) < self.rows

    def make_rows(self, numbers: np.ndarray) -> list[Batch]:
        """Rows by their numbers, which go on over the epochs."""
        epochs, row_pieces = self._pieces(numbers)
        pieces = [(epoch, piece) for epoch, own in zip(epochs, row_pieces, strict=True) for piece in own]
        keys = [example_generator(self.seed, epoch, piece.index) for epoch, piece in pieces]
        records = self._read([piece for _, piece in pieces])
        if self.filled is not None:
            records = self.filled(records, [piece.record for _, piece in pieces], [epoch for epoch, _ in pieces])
        if self.augment is not None:
            records = [self.augment(record, key) for record, key in zip(records, keys, strict=True)]
        if self.partner:
            for record, other in zip(records, self._partners([piece.record for _, piece in pieces], keys), strict=True):
                record["partner"] = other
        rows, done = [], 0
        for own in row_pieces:
            taken = slice(done, done + len(own))
            rows.append(self.make_row(records[taken], keys[taken]))
            done += len(own)
        return rows

    def records(self, numbers: np.ndarray) -> list[list[Record]]:
        """What rows are made of, cut as it stands in them."""
        return [self._read(own) for own in self._pieces(numbers)[1]]

    def _pieces(self, numbers: np.ndarray) -> tuple[list[int], list[list[Piece]]]:
        """Epoch and pieces of each row."""
        epochs, places = np.divmod(numbers, self.rows)
        return epochs.tolist(), [self.plan.row(row) for row in self._rows_at(epochs, places).tolist()]

    def _read(self, pieces: list[Piece]) -> list[Record]:
        records = self.store.read([piece.record for piece in pieces])
        return [cut(record, piece.start, piece.stop) for record, piece in zip(records, pieces, strict=True)]

    def _partners(self, records: list[int], keys: list[np.random.Generator]) -> list[Record]:
        """Another whole record for each, all others equally likely."""
        count = len(self.store)
        others = [
            (record + 1 + int(key.integers(count - 1))) % count if count > 1 else record
            for record, key in zip(records, keys, strict=True)
        ]
        return self.store.read(others)

    def _rows_at(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Rows that stand at these places of these epochs."""
        if not self.shuffle:
            return places
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            rows[epochs == epoch] = self.plan.shuffled(places[epochs == epoch], (self.seed, int(epoch)))
        return rows


@dataclasses.dataclass(frozen=True)
class MixedBatches:
    """The batches of a stream of several sources, each row from the one that the mixture says.

    Attributes:
      parts: batches of each source; their sizes do not matter.
      mixture: which source gives which row.
      batch_size: rows of a global batch.
    """

    parts: tuple[StreamBatches, ...]
    mixture: Mixture
    batch_size: int

    @property
    def rows(self) -> int:
        """Rows of all sources together."""
        return sum(part.rows for part in self.parts)

    @property
    def stores(self) -> tuple[TokenStore, ...]:
        """What the batches are made of."""
        return tuple(part.store for part in self.parts)

    def batch(self, step: int, part: RowSelection = slice(None)) -> Batch:
        """The global batch of a step, or the rows of it that one process holds."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)[part]
        sources, indices = self.mixture.rows(numbers)
        rows: list[Batch] = [{}] * len(numbers)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            for place, row in zip(places, self.parts[source].make_rows(indices[places]), strict=True):
                rows[place] = row
        return collate(rows)


@dataclasses.dataclass(frozen=True)
class HostBatches:
    """The batches of all streams by step, which other processes can make too.

    Attributes:
      streams: batches by stream.
      every: each takes part in every so many steps.
      rows: which of its rows are made here.
    """

    streams: Mapping[str, StreamBatches | MixedBatches]
    every: Mapping[str, int]
    rows: Mapping[str, RowSelection]

    def __call__(self, step: int) -> dict[str, Batch]:
        # A stream that takes part in every third step gives its next batch there; the same once more in between.
        return {
            name: batches.batch(step // self.every[name], self.rows[name]) for name, batches in self.streams.items()
        }


def collate(rows: list[Batch]) -> Batch:
    """Rows as a batch, each with `row_weight` 1."""
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {**batch, "row_weight": np.ones(len(rows), np.float32)}


def example_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one example in one epoch, whatever batch, host or worker makes it."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, index, 0, 0]))
