"""Checksums of a checkpoint's files.

Orbax notices missing and truncated files but restores flipped bytes silently. A manifest is written when a checkpoint
is complete, so that a checkpoint without one is not complete.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

NAME = "manifest.json"
_CHUNK = 2**24
# What earlier versions wrote: the sums of the files alone.
_OLD_KEYS = {"crc32"}
_KEYS = {"crc32", "step", "beside", "sum"}


def write_manifest(directory: pathlib.Path, step: int | None = None, beside: Mapping[str, bytes] | None = None) -> None:
    """Writes the sizes and checksums of all files in a complete checkpoint, atomically.

    Args:
      directory: the checkpoint.
      step: that it is of.
      beside: contents of files outside of it, by name, without which it means something else.
    """
    sums = {name: _sum(content) for name, content in (beside or {}).items()}
    said = {"crc32": _checksums(directory), "step": step, "beside": sums}
    text = json.dumps({**said, "sum": _sum_of(said)}, indent=0)
    partial = directory / f"{NAME}.partial"
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / NAME)


def defect(
    directory: pathlib.Path, step: int | None = None, beside: Mapping[str, bytes | None] | None = None
) -> str | None:
    """What is wrong with a checkpoint, in words, or None where every file is as it was written.

    Args:
      directory: the checkpoint.
      step: that it is taken for.
      beside: contents that the files outside of it have now, by name; None for one that is gone.
    """
    try:
        said = _read(directory)
    except FileNotFoundError:
        return "it was not completely written"
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"its manifest cannot be read ({error})"
    expected, found = said["crc32"], _checksums(directory)
    if missing := sorted(set(expected) - set(found)):
        return f"its file {missing[0]} is missing"
    if damaged := sorted(name for name in expected if expected[name] != found[name]):
        return f"its file {damaged[0]} is damaged (another checksum than when it was written)"
    if step is not None and said["step"] not in (None, step):
        return f"it is the checkpoint of step {said['step']}"
    for name, content in (beside or {}).items():
        if name in said["beside"] and content is None:
            return f"{name} of its run is missing"
        if name in said["beside"] and said["beside"][name] != _sum(content or b""):
            return f"{name} of its run is not the one that it was written with"
    return None


def _read(directory: pathlib.Path) -> dict[str, Any]:
    said = json.loads((directory / NAME).read_text())
    if set(said) == _OLD_KEYS:
        said = {"crc32": dict(said["crc32"]), "step": None, "beside": {}}
    elif set(said) != _KEYS:
        raise KeyError(", ".join(sorted(set(said) ^ _KEYS)))
    elif said.pop("sum") != _sum_of(said):
        raise ValueError("another checksum than when it was written")
    return said


def _sum_of(said: Mapping[str, Any]) -> str:
    return _sum(json.dumps(said, sort_keys=True).encode())


def _sum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def _checksums(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(NAME))
    return {path.relative_to(directory).as_posix(): f"{_crc32(path):08x}" for path in files}


def _crc32(path: pathlib.Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
