"""Checksums of a checkpoint's files.

Orbax notices missing and truncated files but restores flipped bytes silently. A manifest is written when a checkpoint
is complete, so that a checkpoint without one is not complete.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib

NAME = "manifest.json"
_CHUNK = 2**24


def write_manifest(directory: pathlib.Path) -> None:
    """Writes the sizes and checksums of all files in a complete checkpoint, atomically."""
    text = json.dumps({"crc32": _checksums(directory)}, indent=0)
    partial = directory / f"{NAME}.partial"
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / NAME)


def defect(directory: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None where every file is as it was written."""
    try:
        expected = dict(json.loads((directory / NAME).read_text())["crc32"])
    except FileNotFoundError:
        return "it was not completely written"
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"its manifest cannot be read ({error})"
    found = _checksums(directory)
    if missing := sorted(set(expected) - set(found)):
        return f"its file {missing[0]} is missing"
    if damaged := sorted(name for name in expected if expected[name] != found[name]):
        return f"its file {damaged[0]} is damaged (another checksum than when it was written)"
    return None


def _checksums(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(NAME))
    return {path.relative_to(directory).as_posix(): f"{_crc32(path):08x}" for path in files}


def _crc32(path: pathlib.Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
