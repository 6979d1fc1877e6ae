"""The token store: every text tokenized once, read back at random.

A store is a directory of ArrayRecord shards (one msgpack map per record), an index of lengths and a description. It is
named by a fingerprint of all that its content depends on, so it never has to be updated: other content is another
store.
`jaxft.data.preparing` builds it.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from jaxft.data.tokenizers import Part, Tokenizer
from jaxft.errors import DataError

FORMAT = 4
TOKENS = "tokens"
# Where each part of a text that was given in parts ends, in tokens: int32, increasing, the last is the length.
PART_ENDS = "part_ends"
# Of the text in UTF-8, where an objective counts them.
BYTES = "bytes"
# Where runs of tokens that a model learns to write begin and end, int32: start, end, start, end, ...
LEARNED = "learned"
# Where each token stands in its text, int32: first character and one past the last, where an objective asks for them.
SPAN_STARTS, SPAN_ENDS = "span_starts", "span_ends"
_OPEN_SHARDS = 64

# What a record keeps beside its tokens.
Value = int | float | str | list | np.ndarray


@dataclasses.dataclass(frozen=True)
class Fields:
    """What an objective takes from a row of a source.

    Attributes:
      texts: texts to tokenize, by field; `tokens` is the one that is cut and packed. It may be given in parts
        (sentences, or a prompt and its answer), whose ends are then kept.
      values: other fields, kept as they are: raw text among them.
      spans: whether it is kept where each of `tokens` stands in its text, which then is given whole.
      parts: what `tokens` is made of in place of a text, where a template wrote some of it; what is learned of it is
        then kept.
      check: raises DataError for a record that cannot be used once its tokens are known.
    """

    texts: Mapping[str, str | tuple[str, ...]]
    values: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    spans: bool = False
    parts: tuple[Part, ...] | None = None
    check: Callable[[Record], None] | None = None


Record = dict  # field -> int32 array of tokens, or a value


def encode_parts(texts: list[tuple[Part, ...]], tokenizer: Tokenizer) -> list[Record]:
    """Fields `tokens` and `learned` of texts in parts."""
    return [{TOKENS: ids, LEARNED: _runs(learned)} for ids, learned in tokenizer.encode_parts(texts)]


def _runs(mask: np.ndarray) -> np.ndarray:
    """Starts and ends of the runs of a mask, int32."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).astype(np.int32)


def encode_with_spans(texts: list[str], tokenizer: Tokenizer) -> list[Record]:
    """Fields `tokens`, `span_starts` and `span_ends` of texts."""
    return [
        {TOKENS: ids, SPAN_STARTS: spans[:, 0], SPAN_ENDS: spans[:, 1]}
        for ids, spans in tokenizer.encode_with_spans(texts)
    ]


def fingerprint_of(**parts: str) -> str:
    """A name for content that depends on all of `parts`: 32 hex digits."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True).encode()).hexdigest()[:32]


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
    """The tokens `start` to `stop` of a record, with their parts, their places and their share of its bytes.

    Adds `begins` and `ends`: whether the piece holds the first and the last token.
    """
    length = len(record[TOKENS])
    piece = {**record, TOKENS: record[TOKENS][start:stop], "begins": start == 0, "ends": stop == length}
    if PART_ENDS in record:
        inside = record[PART_ENDS][(record[PART_ENDS] > start) & (record[PART_ENDS] < stop)]
        piece[PART_ENDS] = np.append(inside, stop).astype(np.int32) - start
    for name in (SPAN_STARTS, SPAN_ENDS):
        if name in record:
            piece[name] = record[name][start:stop]
    if BYTES in record:
        piece[BYTES] = record[BYTES] * (stop - start) / length
    return piece


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.array_record"


def pack(record: Record) -> bytes:
    """A record as it is stored: arrays of two bytes where all are small enough, else of four; of one for uint8."""
    return msgpack.packb({k: _array_bytes(v) if isinstance(v, np.ndarray) else v for k, v in record.items()})


def _array_bytes(array: np.ndarray) -> bytes:
    if array.dtype == np.uint8:
        return b"\1" + array.tobytes()
    small = array.size == 0 or (array.max() < 1 << 16 and array.min() >= 0)
    return b"\2" + array.astype("<u2").tobytes() if small else b"\4" + array.astype("<i4").tobytes()


def _unpack(raw: bytes) -> Record:
    return {k: _bytes_array(v) if isinstance(v, bytes) else v for k, v in msgpack.unpackb(raw).items()}


def _bytes_array(raw: bytes) -> np.ndarray:
    if raw[0] == 1:
        return np.frombuffer(raw, np.uint8, offset=1)
    return np.frombuffer(raw, "<u2" if raw[0] == 2 else "<i4", offset=1).astype(np.int32)


class TokenStore:
    """An open store.

    Attributes:
      lengths: int32 `(records,)`, tokens of each record; read from disk as it is used.
      rows: rows of the source, the bad ones among them.
      bad: bad rows by reason.
    """

    def __init__(self, directory: pathlib.Path):
        description = json.loads((directory / "store.json").read_text())
        self._directory = directory
        self.lengths = np.load(directory / "lengths.npy", mmap_mode="r")
        self.rows: int = description["rows"]
        self.bad: dict[str, int] = description["bad"]
        self._starts = np.concatenate([[0], np.cumsum(description["shards"])])
        self._readers: collections.OrderedDict[int, array_record_module.ArrayRecordReader] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process it opens the files anew.
        return TokenStore, (self._directory,)

    def read(self, indices: list[int]) -> list[Record]:
        """The records at these indices, in their order.

        Raises:
          DataError: one of them is damaged.
        """
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        records: list[Record] = [{} for _ in indices]
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            try:
                raw = self._reader(shard).read([int(indices[i] - self._starts[shard]) for i in places])
            except (RuntimeError, IndexError) as error:  # as ArrayRecord says it
                raise self._damaged(shard_name(shard), str(error)) from error
            for place, one in zip(places, raw, strict=True):
                records[place] = _unpack(one)
        for index, record in zip(indices, records, strict=True):
            if len(record[TOKENS]) != self.lengths[index]:
                raise self._damaged(
                    "lengths.npy", f"record {index} has {len(record[TOKENS])} tokens, not the number there"
                )
        return records

    def _damaged(self, name: str, problem: str) -> DataError:
        return DataError(
            f"{self._directory / name} is damaged ({problem}); remove {self._directory}, and the store is built again"
        )

    def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
        """An open shard; only so many are open at a time, those that were used last."""
        if shard in self._readers:
            self._readers.move_to_end(shard)
        else:
            path = str(self._directory / shard_name(shard))
            self._readers[shard] = array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)[1].close()
        return self._readers[shard]

    def close(self) -> None:
        """Lets go of the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
