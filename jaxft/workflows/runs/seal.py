"""What a run's description says of the files beside it, so that damage to any of them is noticed.

`model.json` is written last and names the checksums of the tokenizer's files and of the settings that came with the
weights; the manifest of each checkpoint names that of `model.json`.
"""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.errors import CheckpointError

_FILES, _SUM = "files", "sum"


def sealed(said: Mapping[str, Any], directory: pathlib.Path, beside: Sequence[str]) -> dict[str, Any]:
    """A description with the checksums of the files in folders beside it, and with its own.

    Args:
      said: in JSON's terms.
      directory: of the run.
      beside: names of folders there; one that is missing has no files.
    """
    files = {
        path.relative_to(directory).as_posix(): f"{zlib.crc32(path.read_bytes()):08x}"
        for name in beside
        for path in sorted((directory / name).rglob("*"))
        if path.is_file()
    }
    whole = {**said, _FILES: files}
    return {**whole, _SUM: _sum(whole)}


def check_seal(said: Mapping[str, Any], where: pathlib.Path) -> None:
    """Whether a description and the files that it names are as they were written; earlier versions named none.

    Args:
      said: what `sealed` gave.
      where: the file that holds it.

    Raises:
      CheckpointError: one of them is damaged or missing.
    """
    if (_FILES in said) != (_SUM in said) or (_SUM in said and said[_SUM] != _sum(said)):
        raise CheckpointError(f"{where} is damaged: another checksum than when it was written")
    for name, expected in said.get(_FILES, {}).items():
        path = where.parent / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing: {where} names it as a part of the model") from None
        if f"{zlib.crc32(content):08x}" != expected:
            raise CheckpointError(f"{path} is damaged: another checksum than {where} names")


def _sum(said: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in said.items() if name != _SUM}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"
