"""The token store: every text tokenized once, read back at random.

A store is a directory of ArrayRecord shards (one msgpack map per record), an index of lengths and a description. It is
named by a
fingerprint of all that its content depends on, so it never has to be updated: other content is another store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgpack
import numpy as np
from array_record.python import array_record_module

from jaxft.data.sources import Row
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import DataError

FORMAT = 2
TOKENS = "tokens"
# Where each part of a text that was given in parts ends, in tokens: int32, increasing, the last is the length.
PART_ENDS = "part_ends"
# Of the text in UTF-8, where an objective counts them.
BYTES = "bytes"
_BATCH = 1000
_SHARD_RECORDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Fields:
    """What an objective takes from a row of a source.

    Attributes:
      texts: texts to tokenize, by field; `tokens` is the one that is cut and packed. It may be given in parts
        (sentences, or a prompt and its answer), whose ends are then kept.
      values: other fields, kept as they are.
    """

    texts: Mapping[str, str | tuple[str, ...]]
    values: Mapping[str, int | float | str] = dataclasses.field(default_factory=dict)


Record = dict  # field -> int32 array of tokens, or a value


def fingerprint_of(**parts: str) -> str:
    """A name for content that depends on all of `parts`: 32 hex digits."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True).encode()).hexdigest()[:32]


def open_or_build(
    directory: pathlib.Path,
    rows: Callable[[], Iterable[Row]],
    fields: Callable[[Row], Fields],
    tokenizer: Tokenizer,
    said: str,
) -> TokenStore:
    """Opens the store in `directory`, building it first where it is not there.

    Args:
      directory: named by the store's fingerprint.
      rows: reads the source from its start.
      fields: what to keep of a row.
      tokenizer: of the texts.
      said: what the user calls this source, for messages.

    Raises:
      DataError: a bad row, or no rows at all.
    """
    if not (directory / "store.json").exists():
        _build(directory, rows(), fields, tokenizer, said)
    return TokenStore(directory)


def _build(directory, rows, fields, tokenizer, said: str) -> None:
    """Writes beside the final place and renames, so that a store that exists is whole."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f"{directory.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        lengths, shards = _write_shards(partial, _records(rows, fields, tokenizer))
        if not lengths:
            raise DataError(f"{said}: no examples")
        np.save(partial / "lengths.npy", np.asarray(lengths, np.int32))
        (partial / "store.json").write_text(json.dumps({"format": FORMAT, "shards": shards}))
        with contextlib.suppress(OSError):  # another process was first: its store is the same
            partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _records(rows: Iterable[Row], fields, tokenizer: Tokenizer) -> Iterator[Record]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _BATCH)):
        taken = [fields(row) for row in batch]
        encoded = {name: encode_fields([one.texts[name] for one in taken], tokenizer) for name in taken[0].texts}
        for i, one in enumerate(taken):
            tokens, ends = encoded[TOKENS][i]
            if not len(tokens):
                text = one.texts[TOKENS]
                shown = text if isinstance(text, str) else "".join(text)
                raise DataError(f"{batch[i].location}: the tokenizer makes no token of this text: {shown[:60]!r}")
            parts = {} if ends is None else {PART_ENDS: ends}
            yield {**{name: encoded[name][i][0] for name in encoded}, **parts, **one.values}


def encode_fields(
    texts: list[str | tuple[str, ...]], tokenizer: Tokenizer
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Tokens of texts, int32, and the ends of the parts of those that come in parts."""
    parts = [(text,) if isinstance(text, str) else text for text in texts]
    encoded = iter(tokenizer.encode([part for one in parts for part in one]))
    out = []
    for text, own in zip(texts, parts, strict=True):
        pieces = [next(encoded) for _ in own]
        ends = None if isinstance(text, str) else np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
        out.append((np.concatenate(pieces), ends))
    return out


def cut(record: Record, start: int, stop: int) -> Record:
    """The tokens `start` to `stop` of a record, with their parts and their share of its bytes.

    Adds `begins` and `ends`: whether the piece holds the first and the last token.
    """
    length = len(record[TOKENS])
    piece = {**record, TOKENS: record[TOKENS][start:stop], "begins": start == 0, "ends": stop == length}
    if PART_ENDS in record:
        inside = record[PART_ENDS][(record[PART_ENDS] > start) & (record[PART_ENDS] < stop)]
        piece[PART_ENDS] = np.append(inside, stop).astype(np.int32) - start
    if BYTES in record:
        piece[BYTES] = record[BYTES] * (stop - start) / length
    return piece


def _write_shards(directory: pathlib.Path, records: Iterator[Record]) -> tuple[list[int], list[int]]:
    lengths: list[int] = []
    shards: list[int] = []
    while first := next(records, None):
        # Groups of one record: random access reads no neighbour.
        writer = array_record_module.ArrayRecordWriter(str(directory / _shard_name(len(shards))), "group_size:1")
        count = 0
        for record in itertools.chain([first], itertools.islice(records, _SHARD_RECORDS - 1)):
            writer.write(_pack(record))
            lengths.append(len(record[TOKENS]))
            count += 1
        writer.close()
        shards.append(count)
    return lengths, shards


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.array_record"


def _pack(record: Record) -> bytes:
    return msgpack.packb({k: v.astype("<i4").tobytes() if isinstance(v, np.ndarray) else v for k, v in record.items()})


def _unpack(raw: bytes) -> Record:
    return {k: np.frombuffer(v, "<i4") if isinstance(v, bytes) else v for k, v in msgpack.unpackb(raw).items()}


class TokenStore:
    """An open store.

    Attributes:
      lengths: int32 `(records,)`, tokens of each record.
    """

    def __init__(self, directory: pathlib.Path):
        description = json.loads((directory / "store.json").read_text())
        self.lengths = np.load(directory / "lengths.npy")
        self._starts = np.concatenate([[0], np.cumsum(description["shards"])])
        self._readers = [
            array_record_module.ArrayRecordReader(str(directory / _shard_name(i)), "readahead_buffer_size:0")
            for i in range(len(description["shards"]))
        ]

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, indices: list[int]) -> list[Record]:
        """The records at these indices, in their order."""
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        records: list[Record | None] = [None] * len(indices)
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            raw = self._readers[shard].read([int(indices[i] - self._starts[shard]) for i in places])
            for place, one in zip(places, raw, strict=True):
                records[place] = _unpack(one)
        return records

    def close(self) -> None:
        """Lets go of the files."""
        for reader in self._readers:
            reader.close()
