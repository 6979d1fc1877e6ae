"""Strict decoding of a recipe's values into frozen dataclasses, and back.

Each config is defined beside the code that reads it and knows nothing of recipes: this module reads its annotations.
An unknown key, a wrong type or an impossible value is an error that names the place, the key, what was found and what
would be right.

What plug-ins may add to is no annotation but a function in the metadata of a dataclass's field, which gives a mapping
of what there is by then:

  kinds: the field is one of several configs, which are told apart by their `kind`; their classes by that.
  keys: the field is one of several configs, each under a key of its own in the recipe; their classes by that.
  choices: the field is one of these words.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from jaxft.errors import InvalidField, RecipeError
from jaxft.recipe.reading import Document, Path

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def decode(document: Document, config: type) -> Any:
    """The document as an instance of the dataclass `config`.

    Raises:
      RecipeError: any key or value that does not fit; the message is complete.
    """
    return _dataclass(document, config, document.value, ())


def encode(value: Any) -> Any:
    """A config as plain values, without fields that are None, so that decoding gives the same config."""
    if dataclasses.is_dataclass(value):
        items = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {_key_of(field, item): encode(item) for field, item in items if item is not None}
    if isinstance(value, dict):
        return {name: encode(item) for name, item in value.items()}
    return [encode(item) for item in value] if isinstance(value, tuple) else value


def _key_of(field: dataclasses.Field, item: Any) -> str:
    """Under which key a recipe has the value of a field."""
    return next((key for key, config in _keys(field).items() if config is type(item)), field.name)


def check_annotations(config: type) -> None:
    """Makes sure that a dataclass has only fields that a recipe can say.

    Raises:
      InvalidField: another one, or no annotation that can be read.
    """
    try:
        problems = _unsayable(config)
    except (NameError, TypeError) as error:
        raise InvalidField(config.__name__, f"its annotations cannot be read: {error}") from error
    for field in problems:
        problem = f"a recipe cannot say {field.type}; it has int, float, str, bool, Literal, X | None"
        raise InvalidField(field.name, f"{problem}, tuple[X, ...], dict[str, X] and dataclasses of these")


def _unsayable(config: type) -> list[dataclasses.Field]:
    """The fields that a recipe has no words for."""
    hints, added = _annotations(config), {"kinds", "keys", "choices"}
    closed = (field for field in dataclasses.fields(config) if not added & field.metadata.keys())
    return [field for field in closed if not _can_decode(hints[field.name])]


def _can_decode(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        others = [one for one in arguments if one is not type(None) and typing.get_origin(one) is not Literal]
        told_apart = len(others) < 2 or all(one in _KINDS for one in others) or all(map(_has_kind, others))
        return told_apart and all(map(_can_decode, others))
    if origin is tuple:
        return all(_can_decode(one) for one in arguments if one is not Ellipsis)
    if origin is dict:
        return _can_decode(arguments[1])
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return not _unsayable(hint)
    return origin is Literal or hint in _KINDS


def _has_kind(hint: Any) -> bool:
    is_config = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    return is_config and typing.get_origin(_annotations(hint).get("kind")) is Literal


def fail(document: Document, path: Path, problem: str) -> typing.NoReturn:
    """Raises the RecipeError of a key."""
    raise RecipeError(f"{document.place(path)}: {'.'.join(path) or 'recipe'}: {problem}")


@functools.cache
def _annotations(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _dataclass(document: Document, config: type, value: Any, path: Path) -> Any:
    fields = {field.name: field for field in dataclasses.fields(config)}
    if not isinstance(value, dict):
        fail(document, path, f"expected keys ({_listed(_known_keys(fields))}), found {_found(value)}")
    arguments = _arguments(document, config, fields, value, path)
    required = (name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING)
    for name in required:
        if name not in arguments:
            fail(document, path, f"the key {name} is missing")
    try:
        return config(**arguments)
    except InvalidField as error:
        fail(document, (*path, *error.field.split(".")), error.problem)


def _arguments(
    document: Document, config: type, fields: Mapping[str, dataclasses.Field], value: dict[str, Any], path: Path
) -> dict[str, Any]:
    hints, known = _annotations(config), _known_keys(fields)
    arguments: dict[str, Any] = {}
    for key, item in value.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            fail(document, (*path, key), f"unknown key; {hint}The keys here are {_listed(known)}")
        field = fields[known[key]]
        if field.name in arguments:
            fail(document, (*path, key), f"give one of {_listed(_keys(field))}")
        if field.name == key:
            arguments[key] = _field(document, field, hints[key], item, (*path, key))
        else:
            arguments[field.name] = _dataclass(document, _keys(field)[key], item, (*path, key))
    return arguments


def _known_keys(fields: Mapping[str, dataclasses.Field]) -> dict[str, str]:
    """The keys of a recipe with the names of their fields."""
    plain = {name: name for name, field in fields.items() if "keys" not in field.metadata}
    return plain | {key: name for name, field in fields.items() for key in _keys(field)}


def _keys(field: dataclasses.Field) -> Mapping[str, type]:
    """The keys that a field stands for, where it is none itself, with the configs under them."""
    return field.metadata["keys"]() if "keys" in field.metadata else {}


def _field(document: Document, field: dataclasses.Field, hint: Any, value: Any, path: Path) -> Any:
    if "choices" in field.metadata:
        return _choice(document, tuple(field.metadata["choices"]()), value, path)
    if "kinds" in field.metadata and not (value is None and type(None) in typing.get_args(hint)):
        return _of_kind(document, field.metadata["kinds"](), value, path)
    return _value(document, hint, value, path)


def _of_kind(document: Document, kinds: Mapping[str, type], value: Any, path: Path) -> Any:
    """One of the configs, the one whose kind the value names."""
    if not isinstance(value, dict) or "kind" not in value:
        fail(document, path, f"expected a mapping with `kind`, one of {_listed(kinds)}; found {_found(value)}")
    kind = _choice(document, tuple(kinds), value["kind"], (*path, "kind"))
    return _dataclass(document, kinds[kind], value, path)


def _value(document: Document, hint: Any, value: Any, path: Path) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(document, arguments, value, path)
    if origin is Literal:
        return _choice(document, arguments, value, path)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        if arguments[-1] is not Ellipsis:
            if len(items) != len(arguments):
                fail(document, path, f"expected a list of {len(arguments)}, found {_found(value)}")
            parts = zip(arguments, items, strict=True)
            return tuple(_value(document, one, item, (*path, str(i))) for i, (one, item) in enumerate(parts))
        return tuple(_value(document, arguments[0], item, (*path, str(i))) for i, item in enumerate(items))
    if origin is dict:
        return _mapping(document, arguments, value, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass(document, hint, value, path)
    return _scalar(document, hint, value, path)


def _union(document: Document, options: tuple, value: Any, path: Path) -> Any:
    if type(None) in options:
        if value is None:
            return None
        options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _value(document, options[0], value, path)
    words = next((option for option in options if typing.get_origin(option) is Literal), None)
    if words is not None:  # one of some words, or else a mapping or a list
        others = tuple(option for option in options if option is not words)
        return _union(document, others if isinstance(value, (dict, list)) else (words,), value, path)
    if all(option in _KINDS for option in options):
        if type(value) in options:
            return value
        fail(document, path, f"expected {' or '.join(_KINDS[option] for option in options)}, found {_found(value)}")
    kinds = {_annotations(option)["kind"].__args__[0]: option for option in options}
    return _of_kind(document, kinds, value, path)


def _choice(document: Document, choices: tuple, value: Any, path: Path) -> Any:
    if any(type(value) is type(choice) and value == choice for choice in choices):  # true is no 1
        return value
    near = difflib.get_close_matches(str(value), map(str, choices), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    fail(document, path, f"expected one of {_listed(choices)}, found {_found(value)}{hint}")


def _mapping(document: Document, hints: tuple[Any, Any], value: Any, path: Path) -> dict[str, Any]:
    """Names with values. A key that is a `NewType` of text is the data's, not a name of ours: any text will do."""
    if not isinstance(value, dict):
        fail(document, path, f"expected names with values, found {_found(value)}")
    # An override's keys may be numbers to YAML.
    value = {str(name): item for name, item in value.items()}
    for name in value:
        if hints[0] is str and not _NAME.fullmatch(name):
            fail(document, (*path, name), "a name consists of letters, digits, - and _")
    return {name: _value(document, hints[1], item, (*path, name)) for name, item in value.items()}


def _scalar(document: Document, hint: type, value: Any, path: Path) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    hint_text = ""
    if hint is str and isinstance(value, (int, float, bool)):
        hint_text = f'; to mean text, quote it: "{value}"'
    fail(document, path, f"expected {_KINDS[hint]}, found {_found(value)}{hint_text}")


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping with {_listed(value)}" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
