"""Building token stores: several processes tokenize, and what a killed build finished is not done again.

The rows of a source are cut into chunks of a fixed number of rows, each of which becomes one shard, whoever makes it:
so processes, machines and restarts can share the work, and the store is the same however it was shared.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import functools
import itertools
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast

import numpy as np
from array_record.python import array_record_module

from jaxft.data.processes import mapped_in_order
from jaxft.data.sources import Row
from jaxft.data.store import (
    FORMAT,
    PART_ENDS,
    TOKENS,
    Fields,
    Record,
    TokenStore,
    encode_fields,
    encode_parts,
    encode_with_spans,
    pack,
    shard_name,
)
from jaxft.data.store_sums import discard_if_damaged, with_sums
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import DataError, InvalidField

# Makes rows of what a source gives, batch by batch.
Change = Callable[[list[Any]], list[Row | DataError]]

SHARD_ROWS = 65_536
_BATCH_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class BadRowsConfig:
    """What happens to rows that cannot be used.

    Attributes:
      policy: `raise` stops at the first one; `skip` counts them; `quarantine` also writes them down, in
        `quarantine.jsonl` of the store.
      limit: most bad rows, as a share of all where below 1, else their number.
    """

    policy: Literal["raise", "skip", "quarantine"] = "raise"
    limit: float = 0.01

    def __post_init__(self) -> None:
        if self.limit < 0 or (self.limit >= 1 and self.limit != int(self.limit)):
            raise InvalidField("limit", f"must be a share below 1 or a whole number of rows, found {self.limit}")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a store is built; none of it changes what is built but `bad_rows`.

    Attributes:
      bad_rows: what happens to rows that cannot be used.
      workers: processes that tokenize; 0 tokenizes in this one.
      part: `(i, n)`: only every `n`-th chunk, beginning with chunk `i`, is made here; other machines make the others.
    """

    bad_rows: BadRowsConfig = BadRowsConfig()
    workers: int = 0
    part: tuple[int, int] = (0, 1)


def open_or_build(
    directory: pathlib.Path,
    rows: Callable[[], Iterable[Row | DataError]],
    fields: Callable[[Row], Fields],
    tokenizer: Tokenizer,
    where: str,
    how: Preparation = Preparation(),
    change: Change = list,
) -> TokenStore:
    """Opens the store in `directory`, building it first where it is not there, or is damaged.

    Args:
      directory: named by the store's fingerprint.
      rows: reads the source from its start; a row that cannot be read is an error among them.
      fields: what to keep of a row.
      tokenizer: of the texts.
      where: what the user calls this source, for messages.
      how: see there; all parts are made.
      change: see `build`.

    Raises:
      DataError: a bad row or too many of them, or no rows at all.
    """
    discard_if_damaged(directory, where)
    if not (directory / "store.json").exists():
        build(directory, rows, fields, tokenizer, where, how, change)
    return TokenStore(directory)


def build(
    directory: pathlib.Path,
    rows: Callable[[], Iterable[Row | DataError]],
    fields: Callable[[Row], Fields],
    tokenizer: Tokenizer,
    where: str,
    how: Preparation,
    change: Change = list,
) -> bool:
    """Makes the chunks of `how.part` that are not there yet, and the store once all are there.

    Args:
      directory: as those that follow, see `open_or_build`.
      change: makes rows of what `rows` gives, some of it at a time, of as much as there is; it is not asked for what
        an earlier start finished, and runs in this process.

    Returns:
      Whether the store is whole; not so where other machines still make their part.

    Raises:
      DataError: as `open_or_build`.
    """
    building = directory.with_name(f"{directory.name}.building")
    if how.part != (0, 1):  # machines that share the work wait for each other only where they join it
        chunks = _make_chunks(building, rows, fields, tokenizer, where, how, change)
        with _locked(building, directory) as done:
            return done or _finish(building, directory, chunks, where, how.bad_rows)
    with _locked(building, directory) as done:
        try:
            if done or (building / "store.json").exists():  # there, or stopped just before the end
                return done or _finish(building, directory, 0, where, how.bad_rows)
            chunks = _make_chunks(building, rows, fields, tokenizer, where, how, change)
            return _finish(building, directory, chunks, where, how.bad_rows)
        except DataError:
            shutil.rmtree(building, ignore_errors=True)
            raise


@contextlib.contextmanager
def _locked(building: pathlib.Path, directory: pathlib.Path) -> Iterator[bool]:
    """Holds a build against other processes; whether the store is there by now.

    The lock lies in the directory of the build, which the process that finishes it renames, and which one that fails
    removes: whoever waited for it then finds the store, or begins anew.
    """
    while True:
        building.mkdir(parents=True, exist_ok=True)
        path = building / ".lock"
        try:
            lock = path.open("w")
        except FileNotFoundError:
            continue
        with lock:
            with contextlib.suppress(OSError):  # some file systems have no locks; then both build, and one is kept
                fcntl.flock(lock, fcntl.LOCK_EX)
            done = (directory / "store.json").exists()
            try:
                held = path.stat().st_ino == os.fstat(lock.fileno()).st_ino
            except FileNotFoundError:
                held = False
            if done:
                shutil.rmtree(building, ignore_errors=True)
            elif not held:
                continue
            yield done
            return


def _finish(building: pathlib.Path, directory: pathlib.Path, chunks: int, where: str, config: BadRowsConfig) -> bool:
    """Makes the finished chunks a store; whether all of them are there."""
    if not (building / "store.json").exists():
        shards = [shard for number in range(chunks) if (shard := _read_chunk(building, number)) is not None]
        if len(shards) < chunks:
            return False
        _merge(building, shards, where, config)
    (building / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        building.rename(directory)
    return True


# --- Tokenizing ---


@dataclasses.dataclass(frozen=True)
class _Tokenized:
    """A batch of rows: `(record, number of its tokens)` for each good one, and `(reason, message)` for each bad one."""

    records: list[tuple[bytes, int]]
    bad: list[tuple[str, str]]


def _tokenize(batch: list[Row | DataError], fields: Callable[[Row], Fields], tokenizer: Tokenizer) -> _Tokenized:
    taken, records, bad = [], [], []
    for row in batch:
        try:
            if isinstance(row, DataError):
                raise row
            taken.append((row.location, fields(row)))
        except DataError as error:
            bad.append((error.reason, str(error)))
    for (location, one), record in zip(taken, _encoded([one for _, one in taken], tokenizer), strict=True):
        try:
            if not len(record[TOKENS]):
                raise DataError(f"{location}: the tokenizer makes no token of this text: {_shown(one)}", "no_tokens")
            if one.check is not None:
                one.check(record)
        except DataError as error:
            bad.append((error.reason, str(error)))
            continue
        records.append((pack({**record, **one.values}), len(record[TOKENS])))
    return _Tokenized(records, bad)


def _encoded(fields: list[Fields], tokenizer: Tokenizer) -> list[Record]:
    """The tokens of all texts, with their places, the ends of their parts or what is learned of them."""
    if not fields:
        return []
    names = [name for name in fields[0].texts if not (fields[0].spans and name == TOKENS)]
    encoded = {name: encode_fields([one.texts[name] for one in fields], tokenizer) for name in names}
    records: list[Record] = [{name: encoded[name][i][0] for name in encoded} for i in range(len(fields))]
    if fields[0].spans:
        whole = [cast(str, one.texts[TOKENS]) for one in fields]  # as fields with spans are
        placed = encode_with_spans(whole, tokenizer)
        records = [{**own, **record} for own, record in zip(placed, records, strict=True)]
    for i, (_, ends) in enumerate(encoded.get(TOKENS, ())):
        records[i] |= {} if ends is None else {PART_ENDS: ends}
    if fields[0].parts is not None:
        # Which an objective gives of all rows or of none.
        rendered = encode_parts([one.parts for one in fields if one.parts is not None], tokenizer)
        records = [{**own, **record} for own, record in zip(rendered, records, strict=True)]
    return records


def _shown(fields: Fields) -> str:
    """The beginning of a text for a message."""
    text = fields.texts.get(TOKENS) or [part.text for part in fields.parts or ()]
    return repr((text if isinstance(text, str) else "".join(text))[:60])


# --- Chunks ---


def _make_chunks(
    building: pathlib.Path,
    rows: Callable[[], Iterable[Row | DataError]],
    fields: Callable[[Row], Fields],
    tokenizer: Tokenizer,
    where: str,
    how: Preparation,
    change: Change,
) -> int:
    """Makes what is missing of this part; the number of all chunks."""
    building.mkdir(parents=True, exist_ok=True)
    tokenize = functools.partial(_tokenize, fields=fields, tokenizer=tokenizer)
    with mapped_in_order(tokenize, how.workers, ahead=4) as tokenized:
        return _make_all(building, iter(rows()), lambda batches: tokenized(map(change, batches)), where, how)


def _make_all(
    building: pathlib.Path,
    rows: Iterator[Row | DataError],
    tokenized: Callable[[Iterable[list[Row | DataError]]], Iterable[_Tokenized]],
    where: str,
    how: Preparation,
) -> int:
    done, (part, parts) = 0, how.part
    for number in itertools.count():
        chunk = itertools.islice(rows, SHARD_ROWS)
        if number % parts == part and _read_chunk(building, number) is None:
            count = _write_chunk(building, number, tokenized(_batched(chunk)), how)
        else:
            count = sum(1 for _ in chunk)
        done += count
        if count < SHARD_ROWS:
            if not done:
                raise DataError(f"{where}: no examples")
            # A source whose length is a multiple of the chunk's ends with an empty chunk, which is none.
            return number + (count > 0)
    raise AssertionError


def _batched(rows: Iterator[Row | DataError]) -> Iterator[list[Row | DataError]]:
    return iter(lambda: list(itertools.islice(rows, _BATCH_ROWS)), [])


def _write_chunk(building: pathlib.Path, number: int, batches: Iterable[_Tokenized], how: Preparation) -> int:
    """Writes a shard and then, as what says that it is whole, its description; the number of its rows."""
    partial = building / f"{shard_name(number)}.{uuid.uuid4().hex[:8]}.partial"
    # Groups of one record: random access reads no neighbour. A record by itself is hardly smaller when compressed, and
    # compressing it costs as much as tokenizing it.
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    lengths: list[int] = []
    bad: list[tuple[str, str]] = []
    rows = 0
    try:
        for batch in batches:
            if batch.bad and how.bad_rows.policy == "raise":
                raise DataError(batch.bad[0][1], batch.bad[0][0])
            for record, length in batch.records:
                writer.write(record)
                lengths.append(length)
            bad += batch.bad
            rows += len(batch.records) + len(batch.bad)
    except BaseException:
        with contextlib.suppress(Exception):
            writer.close()
        partial.unlink(missing_ok=True)
        raise
    writer.close()
    if not rows:
        partial.unlink()
        return 0
    with contextlib.suppress(FileNotFoundError):  # another process was first, and renamed the directory
        np.save(building / f"lengths-{number:05d}.npy", np.asarray(lengths, np.int32))
        if bad and how.bad_rows.policy == "quarantine":
            lines = (json.dumps({"reason": reason, "message": message}) + "\n" for reason, message in bad)
            (building / f"bad-{number:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
        partial.replace(building / shard_name(number))
        reasons = dict(collections.Counter(reason for reason, _ in bad))
        first = dict(reversed(bad))
        described = {"rows": rows, "used": len(lengths), "bad": reasons, "first": first}
        unfinished = building / f"chunk-{number:05d}.{uuid.uuid4().hex[:8]}.partial"
        unfinished.write_text(json.dumps(described), encoding="utf-8")
        unfinished.replace(building / f"chunk-{number:05d}.json")
    return rows


def _read_chunk(building: pathlib.Path, number: int) -> dict | None:
    path = building / f"chunk-{number:05d}.json"
    with contextlib.suppress(FileNotFoundError, ValueError):  # one that a crash left empty is made again
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def _merge(building: pathlib.Path, chunks: list[dict], where: str, config: BadRowsConfig) -> None:
    """Joins the indices and writes the description, which makes it a store."""
    bad: collections.Counter[str] = collections.Counter()
    for chunk in chunks:
        bad.update(chunk["bad"])
    rows, used = sum(chunk["rows"] for chunk in chunks), sum(chunk["used"] for chunk in chunks)
    _check_limit(where, rows, bad, chunks, config)
    if not used:
        raise DataError(f"{where}: none of {rows} rows can be used")
    lengths = np.lib.format.open_memmap(building / "lengths.npy", "w+", np.int32, (used,))
    start, quarantine = 0, building / "quarantine.jsonl"
    quarantine.unlink(missing_ok=True)
    for number, chunk in enumerate(chunks):
        part = building / f"lengths-{number:05d}.npy"
        lengths[start : start + chunk["used"]] = np.load(part)
        start += chunk["used"]
        written = building / f"bad-{number:05d}.jsonl"
        if written.is_file():
            with quarantine.open("ab") as file:
                file.write(written.read_bytes())
    lengths.flush()
    described = {"format": FORMAT, "shards": [chunk["used"] for chunk in chunks], "rows": rows, "bad": dict(bad)}
    unfinished = building / "store.json.partial"
    shards = (shard_name(number) for number in range(len(chunks)))
    unfinished.write_text(json.dumps(with_sums(described, building, shards)), encoding="utf-8")
    unfinished.replace(building / "store.json")
    for pattern in ("chunk-*", "lengths-*", "bad-*", "*.partial"):
        for path in building.glob(pattern):
            path.unlink()


def _check_limit(where: str, rows: int, bad: collections.Counter, chunks: list[dict], config: BadRowsConfig) -> None:
    count = bad.total()
    most = config.limit * rows if config.limit < 1 else config.limit
    if config.policy == "raise" or count <= most:
        return
    first = {reason: chunk["first"][reason] for chunk in reversed(chunks) for reason in chunk["first"]}
    reasons = "; ".join(f"{number} {reason} (first: {first[reason]})" for reason, number in bad.most_common(5))
    raise DataError(
        f"{where}: {count} of {rows} rows are bad, more than data.bad_rows.limit {config.limit:g} allows: {reasons}"
    )
