"""Datasets of Hugging Face: a directory that `datasets` saved, or a dataset of the hub."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxft.data.sources.arrow import BATCH_ROWS, arrow_rows
from jaxft.data.sources.config import SourceConfig
from jaxft.data.sources.extras import import_extra
from jaxft.data.sources.files import is_url
from jaxft.data.sources.images import decode_image, read_image
from jaxft.data.sources.paths import search_directories
from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError, RecipeError

# What `save_to_disk` writes beside one dataset, and beside several.
_SAVED = ("state.json", "dataset_dict.json")


def hf_rows(config: SourceConfig, base_directory: Path) -> Iterator[Scanned]:
    """One row per row of a split, numbered from 1; images are arrays as `read_image` gives them.

    Classes keep the numbers that they have there.

    Raises:
      DataError: the dataset has no rows.
      RecipeError: there is no such dataset or split, or its package is not installed.
    """
    library = _library(config)
    dataset = _open(config, base_directory, library)
    name = _said(config)
    if not len(dataset):
        raise DataError(f"{name} is empty", "empty_file")
    images = [column for column, feature in dataset.features.items() if isinstance(feature, library.Image)]
    # As Arrow has it, undecoded: an image that can't be decoded is one bad row, not the end of reading.
    tables = dataset.with_format("arrow")
    arrow = import_extra("pyarrow", "hf-datasets", name)
    try:
        for start in range(0, len(dataset), BATCH_ROWS):
            for row in arrow_rows(tables[start : start + BATCH_ROWS], name, start):
                yield _with_images(row, images) if images and isinstance(row, Row) else row
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is damaged: {error}", "corrupt") from error


def hf_identity(config: SourceConfig, base_directory: Path) -> str:
    """The fingerprint that the library gives to the part of the dataset that is read."""
    return _open(config, base_directory, _library(config))._fingerprint


def _library(config: SourceConfig) -> ModuleType:
    return import_extra("datasets", "hf-datasets", _said(config))


def _said(config: SourceConfig) -> str:
    return f"hf {config.hf}" + (f" ({config.split})" if config.split else "")


def _open(config: SourceConfig, base_directory: Path, library: ModuleType) -> Any:
    """The rows of the split that a config names, as a ``datasets.Dataset``."""
    assert config.hf is not None
    directories = [directory / Path(config.hf).expanduser() for directory in _starts(config.hf, base_directory)]
    directory = next((directory for directory in directories if directory.is_dir()), None)
    if is_url(config.hf) or (directory and any((directory / name).is_file() for name in _SAVED)):
        return _part(_load_saved(str(directory or config.hf), config, library), config, library)
    try:
        loaded = library.load_dataset(str(directory or config.hf), config.config_name, split=config.split)
    # Also ConnectionError and FileNotFoundError, of a hub that is out of reach or doesn't know the name.
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        looked = " and ".join(map(str, directories))
        problem = f"hf: {config.hf!r} can't be loaded: {error}"
        raise RecipeError(
            problem if directory else f"{problem}; nor is there a directory: looked for {looked}"
        ) from error
    return _part(loaded, config, library) if config.split is None else loaded


def _starts(written: str, base_directory: Path) -> list[Path]:
    return [] if is_url(written) else search_directories(written, base_directory)


def _load_saved(place: str, config: SourceConfig, library: ModuleType) -> Any:
    if config.config_name is not None:
        raise RecipeError(f"config_name: {place} is a saved dataset, which has no configurations")
    arrow = import_extra("pyarrow", "hf-datasets", place)
    try:
        return library.load_from_disk(place)
    except (FileNotFoundError, ImportError) as error:
        raise RecipeError(f"hf: {place} can't be read: {error}") from error
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"hf: {place} is damaged, or no saved dataset: {error}", "corrupt") from error


def _part(loaded: Any, config: SourceConfig, library: ModuleType) -> Any:
    """The split of what was loaded, which may be written as ``train[:10%]+test``."""
    if not isinstance(loaded, dict):
        if config.split is None:
            return loaded
        if loaded.split is None:
            raise RecipeError(f"split: hf {config.hf} is one dataset without splits; leave it out")
        loaded = {str(loaded.split): loaded}
    names = ", ".join(loaded)
    if config.split is None:
        raise RecipeError(f"split: hf {config.hf} has several splits; name one of: {names}")
    try:
        written = library.ReadInstruction.from_spec(config.split)
        parts = written.to_absolute({name: len(part) for name, part in loaded.items()})
    except (ValueError, AssertionError) as error:
        raise RecipeError(
            f"split: hf {config.hf} has no {config.split!r}; its splits are: {names} ({error})"
        ) from error
    pieces = [loaded[part.splitname].select(range(part.from_, part.to)) for part in parts]
    return pieces[0] if len(pieces) == 1 else library.concatenate_datasets(pieces)


def _with_images(row: Row, columns: list[str]) -> Scanned:
    values = dict(row.values)
    try:
        for column in columns:
            if (image := values[column]) is not None:
                content = image["bytes"]
                values[column] = (
                    read_image(image["path"], row.location)
                    if content is None
                    else decode_image(io.BytesIO(content), row.location)
                )
    except DataError as defect:
        return defect
    return Row(values, row.location)
