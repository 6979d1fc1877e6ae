"""Sources: where rows come from, read one at a time, with the file and line of each.

    for row in read_rows(SourceConfig(jsonl=("reviews.jsonl",)), Path(".")):
        text_column(row, "text")

Whatever is wrong with a file is an error that says where; nothing is dropped or replaced in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from jaxft.data.embedded import cache_directory, embedded_rows
from jaxft.data.sources.config import SourceConfig
from jaxft.data.sources.formats import csv_rows, jsonl_rows, open_file, text_rows, tsv_rows
from jaxft.data.sources.paths import display_path, resolve_paths
from jaxft.data.sources.rows import Row, required_column, text_column
from jaxft.errors import DataError

__all__ = [
    "Row",
    "SourceConfig",
    "read_rows",
    "required_column",
    "resolve_paths",
    "scan_rows",
    "source_fingerprint",
    "text_column",
]

_READERS = {"jsonl": jsonl_rows, "csv": csv_rows, "tsv": tsv_rows}


def read_rows(config: SourceConfig, base_directory: Path) -> Iterator[Row]:
    """The rows of a source in the order of its files; reads as far as it is iterated.

    Args:
      config: what to read.
      base_directory: the directory that relative paths start from.

    Raises:
      RecipeError: a file is missing or can't be read (before the first row).
      DataError: a file is empty or malformed (when its rows are reached).
    """
    return islice(_all_rows(config, base_directory), config.limit)


def scan_rows(config: SourceConfig, base_directory: Path) -> Iterator[Row | DataError]:
    """As `read_rows`, but a bad row comes as the error that it is."""
    return read_rows(config, base_directory)


def _all_rows(config: SourceConfig, base_directory: Path) -> Iterator[Row]:
    if config.embedded is not None:
        rows = embedded_rows(config.embedded, config.split, cache_directory())
        for number, values in enumerate(rows, start=1):
            yield Row(values, f"embedded {config.embedded} ({config.split}):{number}")
        return
    for path in resolve_paths(config, base_directory):
        name = display_path(path, base_directory)
        if config.format == "text":
            yield from text_rows(path, name, config.documents)
        else:
            yield from _READERS[config.format](path, name)


def source_fingerprint(config: SourceConfig, base_directory: Path) -> str:
    """A SHA-256 (hexadecimal) of what a source holds and how it is read.

    Where its files lie, what they are called and how old they are makes no difference.

    Raises:
      RecipeError: a file is missing or can't be read.
    """
    options = {"documents": config.documents, "limit": config.limit}
    digest = hashlib.sha256(json.dumps([config.format, options]).encode())
    if config.embedded is not None:
        for values in embedded_rows(config.embedded, config.split, cache_directory()):
            digest.update(json.dumps(values).encode() + b"\n")
        return digest.hexdigest()
    for path in resolve_paths(config, base_directory):
        with open_file(path, display_path(path, base_directory)) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
