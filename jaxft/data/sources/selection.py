"""Which rows of a source are used, with which columns, in which order: the same for every format."""

from __future__ import annotations

import contextlib
import heapq
import operator
import pickle
import random
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources.config import Column, Scalar, SourceConfig
from jaxft.data.sources.rows import Row, Scanned, required_column
from jaxft.errors import DataError

_BUCKETS = 128
# 64 MiB in all; what is more lies on the disk.
_BUCKET_BYTES_IN_MEMORY = 512 * 2**10


def select(rows: Iterator[Scanned], config: SourceConfig) -> Iterator[Scanned]:
    """Rows by the options `filter`, `exclude`, `columns`, `shuffle` and `limit`, in this order.

    A defect is passed on when it is met; it is in no order and counts for no limit. A row without a column that is
    asked for becomes one. With `shuffle`, a limit keeps that many rows in memory; all rows together lie on the disk.
    """
    rows = _picked(rows, config)
    if config.shuffle is None:
        return rows if config.limit is None else _first(rows, config.limit)
    numbers = random.Random(config.shuffle)
    # Of all that Python's generator offers, only these numbers are promised to be the same in every version.
    keys = iter(numbers.random, None)
    return _shuffled(rows, keys) if config.limit is None else _sample(rows, keys, config.limit)


def _picked(rows: Iterator[Scanned], config: SourceConfig) -> Iterator[Scanned]:
    as_text = config.format in ("csv", "tsv")
    for row in rows:
        if isinstance(row, DataError):
            yield row
            continue
        try:
            if config.filter is not None and not all(_matches(row, config.filter, as_text)):
                continue
            if config.exclude is not None and any(_matches(row, config.exclude, as_text)):
                continue
            if config.columns is not None:
                row = Row({new: required_column(row, old) for new, old in config.columns.items()}, row.location)
        except DataError as defect:
            yield defect
        else:
            yield row


def _matches(row: Row, wanted: Mapping[Column, tuple[Scalar, ...]], as_text: bool) -> list[bool]:
    """Whether each of the columns has one of its values."""
    # All columns are asked for before any decides, so that one that is missing is found in every row.
    found = {column: required_column(row, column) for column in wanted}
    return [any(_equal(found[column], one, as_text) for one in values) for column, values in wanted.items()]


def _equal(found: Any, wanted: Scalar, as_text: bool) -> bool:
    if as_text:
        return found.lower() == str(wanted).lower() if isinstance(wanted, bool) else found == str(wanted)
    # Python takes True for 1.
    return isinstance(found, Scalar) and isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def _first(rows: Iterator[Scanned], limit: int) -> Iterator[Scanned]:
    for row in rows:
        yield row
        limit -= isinstance(row, Row)
        if limit == 0:
            return


def _sample(rows: Iterator[Scanned], keys: Iterator[float], limit: int) -> Iterator[Scanned]:
    """The rows with the smallest of random keys in the order of these, so the first of those that `_shuffled` gives.

    As each row has the same chance of a small key, this is reservoir sampling (Efraimidis and Spirakis, 2006).
    """
    kept: list[tuple[float, int, Row]] = []
    number = 0
    for row in rows:
        if isinstance(row, DataError):
            yield row
            continue
        entry = (-next(keys), -(number := number + 1), row)
        if len(kept) < limit:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    yield from (row for _, _, row in sorted(kept, reverse=True))


def _shuffled(rows: Iterator[Scanned], keys: Iterator[float]) -> Iterator[Scanned]:
    """All rows in the order of random keys, sorted bucket by bucket, as they need not fit into memory."""
    with contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(tempfile.SpooledTemporaryFile(_BUCKET_BYTES_IN_MEMORY)) for _ in range(_BUCKETS)]
        for row in rows:
            if isinstance(row, DataError):
                yield row
            else:
                key = next(keys)
                pickle.dump((key, row), buckets[int(key * _BUCKETS)], pickle.HIGHEST_PROTOCOL)
        for bucket in buckets:
            yield from (row for _, row in sorted(_unpickled(bucket), key=operator.itemgetter(0)))


def _unpickled(bucket: Any) -> Iterator[tuple[float, Row]]:
    bucket.seek(0)
    with contextlib.suppress(EOFError):
        while True:
            yield pickle.load(bucket)
