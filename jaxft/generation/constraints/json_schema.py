"""JSON schemas as syntax trees over characters, for schemas whose texts are a regular language.

Objects have their declared properties in the declared order, arrays their `items`, and a space may follow each comma
and colon. Objects without declared properties may have any, with values of a schema or of any type, nested to a bound.
What a tree can't say (recursion, bounds of numbers) is refused rather than passed over.
"""

from __future__ import annotations

import json
from typing import Any

from jaxft.errors import RecipeError
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
_CHARACTER = parse(r'[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}')
_SIMPLE = {
    "integer": parse(r"-?(?:0|[1-9]\d*)"),
    "number": parse(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?"),
    "boolean": parse("true|false"),
    "null": parse("null"),
}
_STRING = Sequence((literal('"'), Repeat(_CHARACTER, 0, None), literal('"')))
# Levels of arrays and objects inside of an object with any values.
_DEEPEST = 3
_SPACE = Repeat(literal(" "), 0, 1)
_COMMA, _COLON = Sequence((literal(","), _SPACE)), Sequence((literal(":"), _SPACE))


def parse_schema(text: str) -> Node:
    """The tree of a schema, given as JSON.

    Raises:
      RecipeError: it is no JSON, or asks for what a regular language can't say.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise RecipeError(f"json_schema is not JSON: {error}") from error
    return _Schema(schema).tree(schema, "json_schema", ())


class _Schema:
    """A whole schema, in which parts refer to others."""

    def __init__(self, root: Any):
        self.root = root

    def tree(self, schema: Any, where: str, within: tuple[str, ...]) -> Node:
        if not isinstance(schema, dict):
            raise RecipeError(f"{where}: must be an object with a type, found {json.dumps(schema)}")
        if "$ref" in schema:
            return self._reference(schema["$ref"], where, within)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                self._only(schema, {key, "type"}, where)
                return Choice(tuple(self.tree(one, f"{where}.{key}[{i}]", within) for i, one in enumerate(schema[key])))
        if "const" in schema or "enum" in schema:
            self._only(schema, {"const", "enum", "type"}, where)
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return Choice(tuple(literal(json.dumps(value, ensure_ascii=False)) for value in values))
        kinds = schema.get("type")
        if isinstance(kinds, list):
            keys = {key for kind in kinds for key in _KEYS.get(kind, ())}
            self._only(schema, {"type", *keys}, where)
            return Choice(tuple(self._typed(kind, schema, where, within) for kind in kinds))
        if kinds in _KEYS:
            self._only(schema, {"type", *_KEYS[kinds]}, where)
        return self._typed(kinds, schema, where, within)

    def _only(self, schema: dict[str, Any], known: set[str], where: str) -> None:
        if unknown := [key for key in schema if key not in known | _NOTES]:
            raise RecipeError(f"{where}.{unknown[0]}: not understood here; understood are {', '.join(sorted(known))}")

    def _reference(self, path: str, where: str, within: tuple[str, ...]) -> Node:
        if path in within:
            raise RecipeError(f"{where}: {path} refers to itself, so its texts have no bound; write out some levels")
        found = self.root
        for name in path.removeprefix("#/").split("/"):
            if not path.startswith("#/") or not isinstance(found, dict) or name not in found:
                raise RecipeError(f"{where}: there is no {path}; references are like #/$defs/name")
            found = found[name]
        return self.tree(found, path, (*within, path))

    def _typed(self, kind: Any, schema: dict[str, Any], where: str, within: tuple[str, ...]) -> Node:
        if kind in _SIMPLE:
            return _SIMPLE[kind]
        if kind == "string":
            return self._string(schema, where)
        if kind == "array":
            return self._array(schema, where, within)
        if kind == "object":
            return self._object(schema, where, within)
        raise RecipeError(f"{where}: needs a type, one of {', '.join(_KEYS)}; found {json.dumps(kind)}")

    def _string(self, schema: dict[str, Any], where: str) -> Node:
        if "pattern" in schema:
            self._only(schema, {"type", "pattern"}, where)
            inner = parse(schema["pattern"])
        else:
            inner = Repeat(_CHARACTER, *_bounds(schema, "minLength", "maxLength", where))
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
        more = schema.get("additionalProperties", False)
        if more is not False:
            if properties or required:
                found = f"{where}.additionalProperties: must be false beside properties, which are in their order"
                raise RecipeError(found)
            return _any_object(
                _anything(_DEEPEST) if more is True else self.tree(more, f"{where}.additionalProperties", within)
            )
        if missing := [name for name in required if name not in properties]:
            raise RecipeError(f"{where}.required: {missing[0]!r} is not among the properties")
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
    if most is not None and most < least:
        raise RecipeError(f"{where}: {high} {most} is less than {low} {least}")
    return least, most
