"""YAML with line numbers, and overrides from the command line."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from jaxft.errors import RecipeError

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """A recipe as it was read.

    Attributes:
      name: what messages call it: its file.
      value: nested dicts, lists and scalars.
      places: where each key was written: `file:line`, or the override's words.
    """

    name: str
    value: dict[str, Any]
    places: Mapping[Path, str]

    def place(self, path: Path) -> str:
        """Where a key, or the nearest of its parents that was written, stands."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)


class _Loader(yaml.SafeLoader):
    """YAML whose `3e-4` is a number and whose `yes`, `no`, `on` and `off` are words, as in YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*)(?:\.\d*)?(?:[eE][-+]?\d+)|(?:\d[\d_]*)\.\d*|\.\d+(?:[eE][-+]?\d+)?|\.(?:inf|nan))$"
    ),
    list("-+.0123456789"),
)


def read_document(path: pathlib.Path) -> Document:
    """Reads a recipe's file.

    Raises:
      RecipeError: the file cannot be read, is not UTF-8, not YAML, not a mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parses a recipe's text; see `read_document`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        places: dict[Path, str] = {}
        value = {} if node is None else _construct(loader, node, (), places, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise RecipeError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise RecipeError(f"{name}: a recipe is a mapping of keys to values, found {value!r:.60}")
    if not value:
        raise RecipeError(f"{name} is empty: a recipe needs at least `name`, `model` and `streams`")
    return Document(name, value, places)


def _construct(loader: _Loader, node: yaml.Node, path: Path, places: dict[Path, str], name: str) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, str(i)), places, name) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping = {}
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
        where = f"{name}:{key_node.start_mark.line + 1}"
        if key in mapping:
            raise RecipeError(f"{where}: {'.'.join((*path, key))}: this key is there twice")
        places[(*path, key)] = where
        mapping[key] = _construct(loader, value_node, (*path, key), places, name)
    return mapping


def override(document: Document, words: Sequence[str]) -> Document:
    """Applies overrides like `streams.task.batch_size=16`; the value is YAML.

    Raises:
      RecipeError: a word is not of this form, or leads through a value that is not a mapping.
    """
    value, places = _copied(document.value), dict(document.places)
    for word in words:
        keys, equals, text = word.partition("=")
        path = tuple(keys.split("."))
        if not equals or not all(path):
            raise RecipeError(f"{word!r} is not an override; write it as path.to.key=value")
        branch: Any = value
        for depth, key in enumerate(path[:-1]):
            branch = branch.setdefault(key, {})
            if branch is None or not isinstance(branch, dict):
                raise RecipeError(f"override {word}: {'.'.join(path[: depth + 1])} is {branch!r}, which has no keys")
        try:
            branch[path[-1]] = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise RecipeError(f"override {word}: {text!r} is not valid YAML: {error}") from None
        # The whole subtree is new: forget where its parts were written.
        places = {known: where for known, where in places.items() if known[: len(path)] != path}
        places[path] = f"override {word}"
    return Document(document.name, value, places)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
