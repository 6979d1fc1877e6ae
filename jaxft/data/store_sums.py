"""Whether a token store is as it was built.

The lengths, from which every batch is planned, are summed up whole. Shards may be too large to be read at every start:
of a large one some blocks are summed up, and what lies between them ArrayRecord checks when it is read.
"""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
import uuid
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxft.errors import DataError

_logger = logging.getLogger("jaxft")

DESCRIPTION, LENGTHS = "store.json", "lengths.npy"
_FILES, _SUM = "files", "sum"
_WHOLE_BYTES = 1 << 22
_BLOCKS, _BLOCK_BYTES = 8, 1 << 14


def with_sums(said: Mapping[str, Any], directory: pathlib.Path, shards: Iterable[str]) -> dict[str, Any]:
    """A store's description with the sums of its files and its own.

    Args:
      said: in JSON's terms.
      directory: where the files lie.
      shards: names of the shards.
    """
    whole = {**said, _FILES: {name: _sum_of(directory / name) for name in (LENGTHS, *shards)}}
    return {**whole, _SUM: _sum(whole)}


def store_defect(directory: pathlib.Path) -> str | None:
    """What is wrong with a store, in words, or None; those of earlier versions have no sums."""
    try:
        said = json.loads((directory / DESCRIPTION).read_bytes())
        lengths = np.load(directory / LENGTHS, mmap_mode="r")
        records = sum(said["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{DESCRIPTION} or {LENGTHS} cannot be read ({error})"
    if (_FILES in said) != (_SUM in said) or (_SUM in said and said[_SUM] != _sum(said)):
        return f"{DESCRIPTION} is damaged"
    for name, expected in said.get(_FILES, {}).items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if _sum_of(path) != expected:
            return f"{name} is damaged"
    if lengths.shape != (records,) or lengths.min() < 1:
        return f"{LENGTHS} does not hold the length of each of {records} records"
    return None


def discard_if_damaged(directory: pathlib.Path, where: str) -> None:
    """Takes a damaged store away, so that it is built again, and says so.

    In one step, so that nobody finds half of it; who has it open reads on.

    Args:
      directory: of the store; nothing happens where there is none.
      where: what the user calls its source, for messages.

    Raises:
      DataError: it cannot be taken away.
    """
    if not directory.exists() or (problem := store_defect(directory)) is None:
        return
    _logger.warning("%s: the token store %s is built again: %s", where, directory, problem)
    trash = directory.with_name(f"{directory.name}.{uuid.uuid4().hex[:8]}.removed")
    try:
        directory.rename(trash)
    except FileNotFoundError:  # another process was first
        return
    except OSError as error:
        raise DataError(f"the damaged token store {directory} cannot be removed: {error.strerror}") from error
    shutil.rmtree(trash, ignore_errors=True)


def _sum_of(path: pathlib.Path) -> dict[str, int]:
    """The size of a file and the checksum of it, or of blocks of it."""
    size, value = path.stat().st_size, 0
    whole = size <= _WHOLE_BYTES or path.name == LENGTHS
    starts = range(0, size, _WHOLE_BYTES) if whole else np.linspace(0, size - _BLOCK_BYTES, _BLOCKS, dtype=np.int64)
    with path.open("rb") as file:
        for start in starts:
            file.seek(int(start))
            value = zlib.crc32(file.read(_WHOLE_BYTES if whole else _BLOCK_BYTES), value)
    return {"bytes": size, "crc32": value}


def _sum(said: Mapping[str, Any]) -> int:
    rest = {name: value for name, value in said.items() if name != _SUM}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())
