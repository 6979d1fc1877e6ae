"""Sources that plug-ins add: configs that give the rows themselves."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError, RecipeError
from jaxft.extension.table import OpenTable


class AddedSource(abc.ABC):
    """Base of the configs of sources from outside, which are frozen dataclasses.

    A recipe has one under the name that it was registered by: ``source: {digits: {count: 100}, limit: 10}``.
    """

    @abc.abstractmethod
    def rows(self, base_directory: Path) -> Iterator[Mapping[str, Any] | DataError]:
        """The rows in their order, always the same ones: values by column, or what is wrong with a bad one.

        Args:
          base_directory: the directory that relative paths start from.

        Raises:
          RecipeError: what the config names is missing.
          DataError: it is wrong as a whole.
        """

    def fingerprint(self, base_directory: Path) -> str:
        """What tells other rows from these; the config and the code of the plug-in are counted in besides.

        A source that reads files or asks another machine overrides this.
        """
        return ""


SOURCES: OpenTable[type[AddedSource]] = OpenTable("source", {})


def name_of(source: AddedSource) -> str:
    """What recipes call a source.

    Raises:
      RecipeError: no plug-in has registered it.
    """
    for name, config in SOURCES.items():
        if config is type(source):
            return name
    raise RecipeError(f"source {type(source).__name__} was not registered, as with @jaxft.plugins.source")


def added_rows(source: AddedSource, base_directory: Path) -> Iterator[Scanned]:
    """The rows, with their place: numbers count from 1."""
    name = name_of(source)
    for number, row in enumerate(source.rows(base_directory), start=1):
        yield row if isinstance(row, DataError) else Row(dict(row), f"{name}:{number}")


def added_identity(source: AddedSource, base_directory: Path) -> str:
    """A SHA-256 (hexadecimal) of what its rows depend on: its own values, what it says itself, and its code."""
    plugin = SOURCES.plugin(name_of(source))
    parts = (repr(source), source.fingerprint(base_directory), "" if plugin is None else plugin.digest)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
