"""The plug-ins that a recipe names: found, loaded before the rest of it is decoded, and told apart by digest."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources.added import SOURCES, name_of
from jaxft.errors import RecipeError
from jaxft.extension.loading import find_module, load_file, load_installed, load_module
from jaxft.extension.table import OpenTable
from jaxft.objectives.registry import METRICS, OBJECTIVES
from jaxft.recipe.decoding import fail
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import EvaluationSection, Recipe, StreamSection
from jaxft.training.optimizer import OPTIMIZERS

_KEY = ("plugins",)


def load_plugins(document: Document, never_from: Iterable[str | os.PathLike[str]] = ()) -> Document:
    """Loads what the key `plugins` of a recipe names, and the plug-ins of installed packages.

    Args:
      document: the recipe, not decoded yet.
      never_from: directories whose files are data and must never be run, such as the one of a run or a model. Those
        that can be seen to be such are refused without being named here.

    Returns:
      The document with absolute paths of files.

    Raises:
      RecipeError: a plug-in is missing, breaks, adds nothing or lies where it must not; its file and line are named.
    """
    load_installed()
    written = document.value.get("plugins")
    if written is None:
        return document
    names = written if isinstance(written, list) else [written]
    if not all(isinstance(name, str) and name.strip() for name in names):
        fail(document, _KEY, f"expected paths of files or names of modules, found {written!r:.60}")
    forbidden = [pathlib.Path(directory) for directory in never_from]
    references = [_load(document, name, forbidden) for name in names]
    for number, name in enumerate(map(_name_of, references)):
        if name in map(_name_of, references[:number]):
            fail(document, _KEY, f"two of them are called {name}; give each its own name")
    return Document(document.name, {**document.value, "plugins": references}, document.places)


def plugin_digests(recipe: Recipe) -> dict[str, str]:
    """The code from outside that a recipe runs: of each plug-in its name and a SHA-256 (hexadecimal).

    Those that the recipe names, and of installed packages those of which it uses a name. They are loaded already.
    """
    named = [load_file(pathlib.Path(one)) if _is_file(one) else load_module(one) for one in recipe.plugins or ()]
    used = (table.plugin(name) for table, name in _used(recipe))
    return {plugin.name: plugin.digest for plugin in (*named, *filter(None, used))}


def check_plugins_unchanged(before: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Compares the plug-ins of a run, when it began, with those of now.

    Args:
      before: of `plugin_digests`.
      now: likewise.
      where: the run, for the message.

    Raises:
      RecipeError: they differ; each that does is named.
    """
    problems = [f"{name} has changed" for name in now if name in before and before[name] != now[name]]
    problems += [f"{name} was not there" for name in now if name not in before]
    problems += [f"{name} is there no more" for name in before if name not in now]
    if problems:
        raise RecipeError(
            f"{where} began with other plug-ins: {', '.join(problems)}; put them back, or start anew in another "
            "directory with --run-dir, or under another name"
        )


def _used(recipe: Recipe) -> Iterator[tuple[OpenTable[Any], str]]:
    """The names of a recipe that may be a plug-in's."""
    yield OPTIMIZERS, recipe.optimizer.name
    sections: list[StreamSection | EvaluationSection] = [*recipe.streams.values(), *recipe.evaluation.values()]
    for section in sections:
        if section.objective is not None:
            yield OBJECTIVES, section.objective.kind
        yield from ((SOURCES, name_of(source.added)) for source in section.source if source.added is not None)
    for evaluation in recipe.evaluation.values():
        yield from ((METRICS, name) for name in evaluation.metrics or ())


def _load(document: Document, written: str, never_from: Sequence[pathlib.Path]) -> str:
    """Loads a plug-in; its absolute path or the name of its module."""
    path = pathlib.Path(document.name).absolute().parent / pathlib.Path(written).expanduser()
    try:
        if not _is_file(written):
            _check_place(_file_of_module(written, never_from), never_from)
            return load_module(written).reference
        _check_place(path, never_from)
        return load_file(pathlib.Path(os.path.normpath(path))).reference
    except RecipeError as error:
        fail(document, _KEY, f"{written}: {error}")


def _file_of_module(name: str, never_from: Sequence[pathlib.Path]) -> pathlib.Path:
    """Where a module lies, none of whose packages is imported before its place is known."""
    package, _, _ = name.partition(".")
    _check_place(find_module(package), never_from)
    return find_module(name)


def _check_place(path: pathlib.Path, never_from: Sequence[pathlib.Path]) -> None:
    """Refuses a file that came with a model or a run: what is downloaded must not become code that runs."""
    for place in (pathlib.Path(os.path.normpath(path)), path.resolve()):
        for directory in place.parents:
            if _holds_model(directory) or any(directory == one.resolve() or directory == one for one in never_from):
                raise RecipeError(
                    f"lies in {directory}, the directory of a model or a run, out of which no code is taken; copy it "
                    "elsewhere once you have read it"
                )


def _holds_model(directory: pathlib.Path) -> bool:
    own = any((directory / name).is_file() for name in ("model.json", "identity.json"))
    return own or ((directory / "config.json").is_file() and any(directory.glob("*.safetensors")))


def _is_file(written: str) -> bool:
    return written.endswith(".py") or "/" in written or os.sep in written


def _name_of(reference: str) -> str:
    return pathlib.Path(reference).name if _is_file(reference) else reference
