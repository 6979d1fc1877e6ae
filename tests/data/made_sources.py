"""Data that tests of sources make: the same rows in every format, and prepared data of TFDS."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jaxft.data.sources import SourceConfig, scan_rows
from jaxft.errors import DataError


def scan(directory: Path, **options: Any) -> list:
    """Rows of a source, each as its values, with the reason in place of each bad one."""
    scanned = scan_rows(SourceConfig(**options), directory)
    return [row.reason if isinstance(row, DataError) else row.values for row in scanned]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_delimited(path: Path, rows: list[dict[str, Any]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), path, **options)


def write_hf(path: Path, rows: list[dict[str, Any]]) -> None:
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    library.Dataset.from_list(rows).save_to_disk(path)


def prepare_tfds(directory: Path, splits: dict[str, list[dict[str, Any]]], features: Any, name: str, **config: Any):
    """Prepares rows as the dataset `name` below a directory, without TensorFlow."""
    library = pytest.importorskip("tensorflow_datasets")
    package = directory / "package"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    configs = [library.core.BuilderConfig(name=config["config"])] if config else []

    def info(self):
        return library.core.DatasetInfo(builder=self, features=features)

    members = {
        "VERSION": library.core.Version("1.0.0"),
        "BUILDER_CONFIGS": configs,
        "pkg_dir_path": package,
        "name": name,
        "_info": info,
        "_split_generators": lambda self, _: {split: enumerate(rows) for split, rows in splits.items()},
        "_generate_examples": None,
        "__module__": __name__,
    }
    with library.core.registered.skip_registration():
        builder = type("Prepared", (library.core.GeneratorBasedBuilder,), members)
    library.disable_progress_bar()
    builder(data_dir=directory, file_format="array_record", **config).download_and_prepare()
