"""The rows of a source, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxft.data.cache import cache_directory
from jaxft.data.embedded import embedded_rows
from jaxft.data.sources.added import added_rows
from jaxft.data.sources.arrays import array_rows
from jaxft.data.sources.config import SourceConfig
from jaxft.data.sources.conll import conll_rows
from jaxft.data.sources.delimited import csv_rows, tsv_rows
from jaxft.data.sources.files import ReadableFile, WatchedFile, size_of
from jaxft.data.sources.hf_datasets import hf_rows
from jaxft.data.sources.images import image_rows
from jaxft.data.sources.json_lines import jsonl_rows
from jaxft.data.sources.parquet import parquet_rows
from jaxft.data.sources.paths import display_path, resolve_paths
from jaxft.data.sources.plain_text import text_rows
from jaxft.data.sources.rows import Row, Scanned
from jaxft.data.sources.selection import select
from jaxft.data.sources.squad import squad_rows
from jaxft.data.sources.tfds import tfds_rows
from jaxft.errors import DataError
from jaxft.reporting.reading import Reading, is_shown

# Formats whose files are read from the beginning to the end, so that bytes tell how far a reader has come.
_IN_ORDER = ("jsonl", "csv", "tsv", "text", "conll", "squad")
# Of files; of folders in the case of images.
_READERS: dict[str, Callable[[Any, str], Iterator[Scanned]]] = {
    "jsonl": jsonl_rows,
    "csv": csv_rows,
    "tsv": tsv_rows,
    "conll": conll_rows,
    "squad": squad_rows,
    "images": image_rows,
    "arrays": array_rows,
}


def read_rows(config: SourceConfig, base_directory: Path) -> Iterator[Row]:
    """The rows of a source, none of which may be bad; reads as far as it is iterated.

    Args:
      config: what to read.
      base_directory: the directory that relative paths start from.

    Raises:
      RecipeError: a file is missing or can't be read (before the first row).
      DataError: a row is bad, or a file is empty (when its rows are reached).
    """
    for row in scan_rows(config, base_directory):
        if isinstance(row, DataError):
            raise row
        yield row


def scan_rows(config: SourceConfig, base_directory: Path) -> Iterator[Scanned]:
    """The rows of a source in its order, with a DataError in place of each bad one; reads as far as it is iterated.

    Every row of the source is either given, or left out by an option of the config, or stands for one DataError, whose
    message begins with the row's place and whose ``reason`` says what kind of defect it is. Reading goes on
    behind a bad row. Where it can't, as in compressed data that is cut off, one DataError is the last of its file.

    Args:
      config: what to read.
      base_directory: the directory that relative paths start from.

    Raises:
      RecipeError: a file is missing or can't be read (before the first row).
      DataError: a file as a whole is wrong: it is empty, not of its format, or has no header.
    """
    return _shown(config, base_directory) if is_shown() else select(_all_rows(config, base_directory), config)


def _shown(config: SourceConfig, base_directory: Path) -> Iterator[Scanned]:
    """The rows of a source, whose reader is told how far it has come."""
    in_order = config.format in _IN_ORDER
    sizes = [size_of(file) for file in resolve_paths(config, base_directory)] if in_order else [None]
    known = [size for size in sizes if size is not None]
    size = sum(known) if len(known) == len(sizes) else None
    with Reading(_label(config), size) as reading:
        for row in select(_all_rows(config, base_directory, reading.add_bytes if in_order else None), config):
            reading.add_rows(1)
            yield row


def _label(config: SourceConfig) -> str:
    if config.added is not None:
        return config.format
    if not config.paths:
        return f"{config.format} {getattr(config, config.format)}"
    return config.paths[0] + (f" and {len(config.paths) - 1} more" if len(config.paths) > 1 else "")


def _all_rows(
    config: SourceConfig, base_directory: Path, tell: Callable[[int], None] | None = None
) -> Iterator[Scanned]:
    """All rows; `tell` is told how many further bytes of their files were read."""
    if config.format == "embedded":
        yield from _embedded_rows(config)
    elif config.added is not None:
        yield from added_rows(config.added, base_directory)
    elif config.format == "tfds":
        yield from tfds_rows(config)
    elif config.format == "hf":
        yield from hf_rows(config, base_directory)
    for file in resolve_paths(config, base_directory):
        name = display_path(file, base_directory)
        yield from _file_rows(file if tell is None else WatchedFile(file, tell), name, config)


def _file_rows(file: ReadableFile, name: str, config: SourceConfig) -> Iterator[Scanned]:
    if config.format == "text":
        return text_rows(file, name, config.documents)
    if config.format == "parquet":
        return parquet_rows(file, name, config)
    return _READERS[config.format](file, name)


def _embedded_rows(config: SourceConfig) -> Iterator[Row]:
    corpus, split = config.embedded_part
    for number, values in enumerate(embedded_rows(corpus, split, cache_directory()), start=1):
        yield Row(values, f"embedded {corpus} ({split}):{number}")
