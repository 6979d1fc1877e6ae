"""Parquet files, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

from jaxft.data.sources.arrow import BATCH_ROWS, arrow_rows
from jaxft.data.sources.config import SourceConfig
from jaxft.data.sources.extras import import_extra
from jaxft.data.sources.files import ReadableFile, open_file
from jaxft.data.sources.rows import Scanned
from jaxft.errors import DataError


def parquet_rows(file: ReadableFile, name: str, config: SourceConfig) -> Iterator[Scanned]:
    """One row per row, numbered from 1; reads only the columns that the config asks for.

    Raises:
      DataError: the file is empty, damaged or no Parquet file.
      RecipeError: it can't be read, or pyarrow is not installed.
    """
    arrow = import_extra("pyarrow", "parquet", f"reading {name}")
    parquet = import_extra("pyarrow.parquet", "parquet", f"reading {name}")
    number = 0
    with open_file(file, name) as stream:
        try:
            content = parquet.ParquetFile(stream)
            for batch in content.iter_batches(BATCH_ROWS, columns=_wanted_columns(config, content.schema_arrow.names)):
                yield from arrow_rows(batch, name, number)
                number += batch.num_rows
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{name}: damaged, or not a Parquet file: {error}", "corrupt") from error
    if not number:
        raise DataError(f"{name} is empty: it has no rows", "empty_file")


def _wanted_columns(config: SourceConfig, names: list[str]) -> list[str] | None:
    """The columns to read; None means all, also where one is missing, as its message lists those that are there."""
    if config.columns is None:
        return None
    asked_for = sorted({*config.columns.values(), *(config.filter or ()), *(config.exclude or ())})
    return asked_for if set(asked_for) <= set(names) else None
