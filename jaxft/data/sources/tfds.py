"""Prepared data of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from array_record.python import array_record_module

from jaxft.data.sources.config import SourceConfig
from jaxft.data.sources.extras import import_extra
from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError, RecipeError

_DEFAULT_DIRECTORY = "~/tensorflow_datasets"
_DESCRIPTION = "dataset_info.json"


def tfds_rows(config: SourceConfig) -> Iterator[Scanned]:
    """One row per example of a split, numbered from 1, in the order in which they were prepared.

    Bytes become text; features keep the names, classes the numbers, that they have there.

    Raises:
      DataError: the split is empty, or its files are damaged.
      RecipeError: the data isn't prepared, has no such split, or its package is not installed.
    """
    name = f"tfds {config.tfds} ({config.split})"
    _, examples = _open(config)
    if not len(examples):
        raise DataError(f"{name} is empty", "empty_file")
    for i in range(len(examples)):
        try:
            yield Row({column: _plain(value) for column, value in examples[i].items()}, f"{name}:{i + 1}")
        except UnicodeDecodeError as error:
            yield DataError(f"{name}:{i + 1}: not UTF-8: {error}", "not_utf8")
        # So Pillow calls whatever it can't decode.
        except OSError as error:
            yield DataError(f"{name}:{i + 1}: not readable: {error}", "unreadable_image")
        except RuntimeError as error:
            raise DataError(f"{name} is damaged: {error}", "corrupt") from error


def tfds_identity(config: SourceConfig) -> str:
    """What a split's content depends on: the version of the data, and the sizes of its splits."""
    builder, _ = _open(config)
    sizes = {name: (list(split.shard_lengths), int(split.num_bytes)) for name, split in builder.info.splits.items()}
    return f"{builder.info.full_name} {sorted(sizes.items())}"


def _open(config: SourceConfig) -> tuple[Any, Sequence[dict[str, Any]]]:
    """The builder of prepared data, and the examples of the config's split."""
    assert config.tfds is not None
    where = f"tfds: {config.tfds!r}"
    library = import_extra("tensorflow_datasets", "tfds", where)
    builder = library.builder_from_directory(_find(config.tfds, where))
    try:
        _check_files(builder.info.splits[config.split].file_instructions, where)
        return builder, builder.as_data_source(split=config.split)
    except NotImplementedError as error:
        found = builder.info.file_format.value
        raise RecipeError(
            f"{where} is prepared as {found}, which only TensorFlow reads; prepare it with file_format='array_record'"
        ) from error
    except (ValueError, KeyError, AssertionError) as error:
        splits = ", ".join(builder.info.splits)
        reason = " ".join(str(error).split())
        raise RecipeError(f"split: {where} has no {config.split!r}; its splits are: {splits} ({reason})") from error


def _check_files(parts: Iterable[Any], name: str) -> None:
    """Asks each file how many examples it holds, as one that is cut off gives empty examples without a word."""
    for part in parts:
        path = str(part.filename)
        if ".array_record" not in path:
            continue
        try:
            found = array_record_module.ArrayRecordReader(path).num_records()
        except RuntimeError as error:
            raise DataError(f"{name} is damaged: {path}: {error}", "corrupt") from error
        if found != part.examples_in_shard:
            problem = f"{path} holds {found} examples instead of {part.examples_in_shard}"
            raise DataError(f"{name} is damaged: {problem}", "truncated")


def _find(name: str, where: str) -> Any:
    """The directory that holds one version of a dataset: the newest where the name says none."""
    path: ModuleType = import_extra("etils.epath", "tfds", where)
    root = path.Path(os.environ.get("TFDS_DATA_DIR") or _DEFAULT_DIRECTORY).expanduser()
    name, _, version = name.partition(":")
    directory = root / name
    versions = _versions(directory)
    if not versions and directory.is_dir() and "/" not in name:
        configs = sorted(child.name for child in directory.iterdir() if _versions(child))
        if len(configs) > 1:
            raise RecipeError(f"{where} has several configurations; name one: {name}/{f', {name}/'.join(configs)}")
        versions = _versions(directory / configs[0]) if configs else {}
    if version:
        versions = {key: found for key, found in versions.items() if found.name == version}
    if not versions:
        raise RecipeError(
            f"{where} is not prepared: looked in {directory} for {version or 'a version'} with {_DESCRIPTION}. jaxft "
            "downloads nothing: set TFDS_DATA_DIR to the directory with your prepared data, or prepare it with "
            "tfds.builder(...).download_and_prepare(file_format='array_record')"
        )
    return versions[max(versions)]


def _versions(directory: Any) -> dict[tuple[int, ...], Any]:
    if not directory.is_dir():
        return {}
    children = [child for child in directory.iterdir() if (child / _DESCRIPTION).exists()]
    return {
        tuple(map(int, child.name.split("."))): child
        for child in children
        if all(part.isdecimal() for part in child.name.split("."))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
