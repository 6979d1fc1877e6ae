"""JSON schemas as syntax trees over characters, for schemas whose texts are a regular language.

Objects have their declared properties in the declared order, arrays their `items`, and a space may follow each comma
and colon. Objects without declared properties may have any, with values of a schema or of any type, nested to a bound.
What a tree can't say (recursion, bounds of numbers) is refused rather than passed over.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from jaxft.errors import RecipeError
from jaxft.generation.constraints.json_text import CHARACTER, within_string
from jaxft.generation.constraints.regex import Choice, Node, Repeat, Separated, Sequence, literal, parse

_NOTES = frozenset(
    {"$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples", "$comment"}
)
_KEYS = {
    "string": {"minLength", "maxLength", "pattern"},
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "integer": set(),
    "number": set(),
    "boolean": set(),
    "null": set(),
}
_SIMPLE = {
    "integer": parse(r"-?(?:0|[1-9]\d*)"),
    "number": parse(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?"),
    "boolean": parse("true|false"),
    "null": parse("null"),
}
_STRING = Sequence((literal('"'), Repeat(CHARACTER, 0, None), literal('"')))
# Levels of arrays and objects inside of an object with any values.
_ANY_LEVELS = 3
# Schemas in each other, references among them: more than Python's stack holds otherwise.
_DEEPEST = 80
# Characters of a schema: one that is longer has more states than an automaton may have.
_LONGEST = 200_000
# Of a value or name, in messages.
_SHOWN = 60
_SPACE = Repeat(literal(" "), 0, 1)
_COMMA, _COLON = Sequence((literal(","), _SPACE)), Sequence((literal(":"), _SPACE))


def parse_schema(text: str) -> Node:
    """The tree of a schema, given as JSON.

    Raises:
      RecipeError: it is no JSON, or asks for what a regular language can't say.
    """
    if len(text) > _LONGEST:
        raise RecipeError(f"json_schema has {len(text)} characters, at most {_LONGEST} are followed")
    try:
        schema = json.loads(text, parse_constant=_no_constant)
        return _Schema(schema).tree(schema, "json_schema", ())
    except ValueError as error:
        raise RecipeError(f"json_schema is not JSON: {error}") from error
    except RecursionError:
        raise RecipeError("json_schema: its values are too deep in each other to be followed") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


class _Schema:
    """A whole schema, in which parts refer to others."""

    def __init__(self, root: Any):
        self.root = root
        self._referred: dict[str, Node] = {}
        self._depth = 0

    def tree(self, schema: Any, where: str, within: tuple[str, ...]) -> Node:
        if not isinstance(schema, dict):
            raise RecipeError(f"{where}: must be an object with a type, found {_shown(schema)}")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecipeError(f"json_schema: more than {_DEEPEST} schemas in each other are not followed")
        found = self._tree(schema, where, within)
        self._depth -= 1
        return found

    def _tree(self, schema: dict[str, Any], where: str, within: tuple[str, ...]) -> Node:
        if "$ref" in schema:
            return self._reference(schema["$ref"], where, within)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                self._only(schema, {key, "type"}, where)
                several = _list(schema, key, where)
                return Choice(tuple(self.tree(one, f"{where}.{key}[{i}]", within) for i, one in enumerate(several)))
        if "const" in schema or "enum" in schema:
            self._only(schema, {"const", "enum", "type"}, where)
            values = [schema["const"]] if "const" in schema else _list(schema, "enum", where)
            return Choice(tuple(_value(value, where) for value in values))
        kinds = schema.get("type")
        if isinstance(kinds, list):
            kinds = _list(schema, "type", where)
            keys = {key for kind in kinds if isinstance(kind, str) for key in _KEYS.get(kind, ())}
            self._only(schema, {"type", *keys}, where)
            return Choice(tuple(self._typed(kind, schema, where, within) for kind in kinds))
        if isinstance(kinds, str) and kinds in _KEYS:
            self._only(schema, {"type", *_KEYS[kinds]}, where)
        return self._typed(kinds, schema, where, within)

    def _only(self, schema: dict[str, Any], known: set[str], where: str) -> None:
        if unknown := [key for key in schema if key not in known | _NOTES]:
            raise RecipeError(f"{where}.{unknown[0]}: not understood here; understood are {', '.join(sorted(known))}")

    def _reference(self, path: Any, where: str, within: tuple[str, ...]) -> Node:
        if not isinstance(path, str):
            raise RecipeError(f"{where}.$ref: must be text like #/$defs/name, found {_shown(path)}")
        if path in self._referred:
            return self._referred[path]
        if path in within:
            raise RecipeError(f"{where}: {path} refers to itself, so its texts have no bound; write out some levels")
        found = self.root
        for name in path.removeprefix("#/").split("/"):
            if not path.startswith("#/") or not isinstance(found, dict) or name not in found:
                raise RecipeError(f"{where}: there is no {path}; references are like #/$defs/name")
            found = found[name]
        self._referred[path] = self.tree(found, path, (*within, path))
        return self._referred[path]

    def _typed(self, kind: Any, schema: dict[str, Any], where: str, within: tuple[str, ...]) -> Node:
        if isinstance(kind, str) and kind in _SIMPLE:
            return _SIMPLE[kind]
        if kind == "string":
            return self._string(schema, where)
        if kind == "array":
            return self._array(schema, where, within)
        if kind == "object":
            return self._object(schema, where, within)
        raise RecipeError(f"{where}: needs a type, one of {', '.join(_KEYS)}; found {_shown(kind)}")

    def _string(self, schema: dict[str, Any], where: str) -> Node:
        if "pattern" in schema:
            self._only(schema, {"type", "pattern"}, where)
            pattern = schema["pattern"]
            if not isinstance(pattern, str):
                raise RecipeError(f"{where}.pattern: must be text, found {_shown(pattern)}")
            inner = within_string(parse(pattern))
        else:
            inner = Repeat(CHARACTER, *_bounds(schema, "minLength", "maxLength", where))
        return Sequence((literal('"'), inner, literal('"')))

    def _array(self, schema: dict[str, Any], where: str, within: tuple[str, ...]) -> Node:
        if "items" not in schema:
            raise RecipeError(f"{where}: an array needs items")
        item = self.tree(schema["items"], f"{where}.items", within)
        least, most = _bounds(schema, "minItems", "maxItems", where)
        inside: Node = Sequence(())
        if most != 0:
            more = Repeat(Sequence((_COMMA, item)), max(least - 1, 0), None if most is None else most - 1)
            inside = Repeat(Sequence((item, more)), min(least, 1), 1)
        return Sequence((literal("["), inside, literal("]")))

    def _object(self, schema: dict[str, Any], where: str, within: tuple[str, ...]) -> Node:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise RecipeError(f"{where}.properties: must be an object of schemas, found {_shown(properties)}")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise RecipeError(f"{where}.required: must be a list of names, found {_shown(required)}")
        more = schema.get("additionalProperties", False)
        if more is not False:
            if properties or required:
                found = f"{where}.additionalProperties: must be false beside properties, which are in their order"
                raise RecipeError(found)
            return _any_object(
                _anything(_ANY_LEVELS) if more is True else self.tree(more, f"{where}.additionalProperties", within)
            )
        if missing := [name for name in required if name not in properties]:
            raise RecipeError(f"{where}.required: {missing[0][:_SHOWN]!r} is not among the properties")
        pairs: list[tuple[Node, bool]] = [
            (
                Sequence(
                    (
                        literal(json.dumps(name, ensure_ascii=False)),
                        _COLON,
                        self.tree(value, f"{where}.properties.{name}", within),
                    )
                ),
                name in required,
            )
            for name, value in properties.items()
        ]
        return Sequence((literal("{"), _in_order(pairs), literal("}")))


def _any_object(value: Node) -> Node:
    """Objects with any names and these values."""
    pair = Sequence((_STRING, _COLON, value))
    return Sequence((literal("{"), Choice((Sequence(()), Separated(pair, _COMMA))), literal("}")))


def _anything(levels: int) -> Node:
    """Values of any type, with arrays and objects in each other to so many levels."""
    parts = (_STRING, *_SIMPLE.values())
    if levels:
        inside = _anything(levels - 1)
        array = Sequence((literal("["), Choice((Sequence(()), Separated(inside, _COMMA))), literal("]")))
        parts = (*parts, array, _any_object(inside))
    return Choice(parts)


def _in_order(pairs: list[tuple[Node, bool]]) -> Node:
    """Pairs with commas between; those that are not required may be missing."""
    # What may follow each pair, and the same for one that would be the first.
    after: Node = Sequence(())
    first: Node = Sequence(())
    for pair, is_required in reversed(pairs):
        begun = Sequence((pair, after))
        first = begun if is_required else Choice((begun, first))
        after = Sequence((Repeat(Sequence((_COMMA, pair)), int(is_required), 1), after))
    return first


def _bounds(schema: dict[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for name, bound in ((low, least), (high, most)):
        is_number = isinstance(bound, int) and not isinstance(bound, bool) and bound >= 0
        if not is_number and (name, bound) != (high, None):
            raise RecipeError(f"{where}.{name}: must be a whole number from 0, found {_shown(bound)}")
    if most is not None and most < least:
        raise RecipeError(f"{where}: {high} {most} is less than {low} {least}")
    return least, most


def _list(schema: dict[str, Any], key: str, where: str) -> list[Any]:
    """What a key lists."""
    value = schema[key]
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}.{key}: must be a list with something in it, found {_shown(value)}")
    return value


def _value(value: Any, where: str) -> Node:
    """One value as JSON writes it."""
    try:
        return literal(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:
        raise RecipeError(f"{where}: holds a number that is too large for JSON") from None


def _shown(value: Any) -> str:
    """A value for a message."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
