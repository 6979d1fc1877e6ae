"""Expressions mean what Python's `re` says, and whatever a model draws under a constraint follows it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from jaxft.errors import RecipeError
from jaxft.generation.config import GenerationConfig
from jaxft.generation.constraints.bytes_automaton import compile_bytes, utf8_ranges
from jaxft.generation.constraints.json_schema import parse_schema
from jaxft.generation.constraints.minimal import minimal
from jaxft.generation.constraints.regex import parse
from jaxft.generation.constraints.tokens import compile_tokens


def _matches(table: np.ndarray, complete: np.ndarray, text: str) -> bool:
    state = 0
    for byte in text.encode():
        state = int(table[state, byte])
        if state < 0:
            return False
    return bool(complete[state])


@pytest.mark.parametrize(
    "pattern",
    [
        "", "abc", "a|bc|", "(a|b)*c", "a+b?c{2}", "(ab){1,3}", "a{2,}", "[a-c]x[^a-c]", r"\d+\.\w\s", "a.b", "[]a-]+",
        r"(?:x|y)+\(", "é+", "[α-ω]{2}", "[^é]a", r"\u00e9", "^ab$", "(a*)*b", "((a|b)?c)*", "a{0,2}b{0}",
    ],
)  # fmt: skip
def test_an_expression_means_what_it_says(pattern):
    rng = np.random.default_rng(0)
    automaton = compile_bytes(parse(pattern))
    plain = re.compile(pattern, re.ASCII | re.DOTALL if "." not in pattern else re.ASCII)
    texts = {"", "abc", "ab", "ababab", "xy(", "éé", "αω", "1.a ", "acb"}
    for _ in range(1500):
        texts.add("".join(rng.choice(list("abcxy(1._ \néαω-]𝄞"), rng.integers(0, 7))))
    found = {text: _matches(*automaton, text) for text in texts}
    assert found == {text: plain.fullmatch(text) is not None for text in texts}


@pytest.mark.parametrize(
    "first,last", [(0, 0x10FFFF), (0x70, 0x900), (0x7FE, 0x10001), (0x3A0, 0x3FF), (0xE000, 0xE100)]
)
def test_ranges_of_characters_are_ranges_of_bytes(first, last):
    """Every character near an edge, and no sequence of bytes that is none."""
    paths = list(utf8_ranges(((first, last),)))

    def within(encoded: bytes) -> int:
        return sum(
            len(path) == len(encoded) and all(low <= b <= high for (low, high), b in zip(path, encoded, strict=True))
            for path in paths
        )

    edges = {c + d for c in (first, last, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000) for d in range(-70, 70)}
    for character in edges:
        if 0 <= character <= 0x10FFFF and not 0xD800 <= character <= 0xDFFF:
            assert within(chr(character).encode()) == (first <= character <= last), hex(character)
    assert within(b"\xed\xa0\x80") == 0


@pytest.mark.parametrize(
    "pattern,said",
    [
        ("(a", "( without"), ("a)", ") without"), ("*a", "repeats nothing"), (r"(a)\1", "not understood"),
        ("a*?", "lazy"), ("(?=a)", "neither"), ("a{3,2}", "impossible repetition"),
        ("[b-a]", "impossible range"), ("a$b", "inside"),
        ("a{x}", "no repetition"), ("[a", "too early"), ("(a{900}b{900}){900}", "states"),
        ("a{²}", "no repetition"), ("a{,3}", "no repetition"), ("a{9" + "9" * 5000 + "}", "more than 1000"),
        ("(" * 200 + ")" * 200, "groups"), ("a" + "*" * 200, "repetitions"), ("a" * 30_000, "characters"),
    ],
)  # fmt: skip
def test_what_can_not_be_followed_is_refused(pattern, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        compile_bytes(parse(pattern))


def test_like_states_are_one():
    """As few states as there are different sets of texts up to the length at which they differ, and the same texts."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        states = int(rng.integers(1, 12))
        table = np.full((states, 256), -1, np.int32)
        table[:, :2] = rng.integers(-1, states, (states, 2))
        complete = rng.random(states) < 0.4
        small, ends = minimal(table, complete)
        found = complete.astype(int)
        for _ in range(states):
            after = np.where(table[:, :2] >= 0, found[table[:, :2]], -1)
            _, found = np.unique(np.column_stack([found, after]), axis=0, return_inverse=True)
        assert len(small) == len(set(found.reshape(-1).tolist()))
        for number in range(2**8):
            text = format(number, "b")[1:].replace("0", "\x00").replace("1", "\x01")
            assert _matches(small, ends, text) == _matches(table, complete, text)


def test_tokens_lead_where_their_bytes_do():
    """Against a walk byte by byte, for a vocabulary of pieces of several lengths."""
    table, complete = compile_bytes(parse(r"(ab|é)+c?"))
    tokens = [b"a", b"b", b"ab", b"aba", b"c", b"bc", "é".encode(), b"\xc3", b"\xa9", b"\xa9a", None, b"", b"x"]
    automaton = compile_tokens(table, complete, tokens)
    for state in range(len(table)):
        for i, token in enumerate(tokens):
            expected = state if token else -1
            for byte in token or b"":
                expected = int(table[expected, byte]) if expected >= 0 else -1
            assert int(automaton.table[state, automaton.classes[i]]) == expected
    assert int(automaton.remaining[0]) == 1


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer"},
        "kind": {"enum": ["é", 2, None]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["age", "tags"],
    "$defs": {"tag": {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "[a-z]{2}"}]}},
}


@pytest.mark.parametrize(
    "text,right",
    [
        ('{"age": 3, "tags": [true]}', True), ('{"age":3,"tags":["ab", false]}', True),
        ('{"name": "a\\"é", "age": -10, "kind": null, "tags": [true]}', True),
        ('{"age": 3}', False), ('{"age": 03, "tags": [true]}', False), ('{"age": 3, "tags": []}', False),
        ('{"age": 3, "tags": [true, true, true]}', False), ('{"tags": [true], "age": 3}', False),
        ('{"name": "abcde", "age": 3, "tags": [true]}', False), ('{, "age": 3, "tags": [true]}', False),
    ],
)  # fmt: skip
def test_a_schema_means_what_it_says(text, right):
    assert _matches(*compile_bytes(parse_schema(json.dumps(SCHEMA))), text) == right


def test_any_object_is_what_json_reads_and_all_of_it_up_to_its_levels():
    """Whatever matches is an object, also of texts with an error; and objects of any kind match."""
    rng = np.random.default_rng(0)
    automaton = compile_bytes(parse_schema('{"type": "object", "additionalProperties": true}'))

    def name() -> str:
        return "".join(rng.choice(list('ab"\\é\n{}[]:,𝄞 '), rng.integers(0, 4)))

    def value(levels: int):
        kind = rng.integers(6 if levels else 4)
        if kind < 4:
            return (name(), rng.choice([None, True, False]), int(rng.integers(-99, 99)), float(rng.normal() * 1e-9))[
                kind
            ]
        count = rng.integers(3)
        return [value(levels - 1) for _ in range(count)] if kind == 4 else whole(levels - 1, count)

    def whole(levels: int, count: int) -> dict:
        return {name(): value(levels) for _ in range(count)}

    for number in range(300):
        how = ({}, {"separators": (",", ":")}, {"ensure_ascii": False})[number % 3]
        text = json.dumps(whole(3, rng.integers(4)), **how)
        assert _matches(*automaton, text), text
        for _ in range(5):
            at, new = rng.integers(len(text)), str(rng.choice(["", *'{}[]":,0e-. nt\\']))
            wrong = text[:at] + new + text[at + 1 :]
            if _matches(*automaton, wrong):
                assert isinstance(json.loads(wrong), dict)
    deeper = '{"a": ' * 5 + "1" + "}" * 5
    assert not _matches(*automaton, deeper) and _matches(*automaton, deeper[6:-1])
    numbers = compile_bytes(parse_schema('{"type": "object", "additionalProperties": {"type": "integer"}}'))
    assert _matches(*numbers, '{"a": 1,"b":2}') and _matches(*numbers, "{}")
    assert not _matches(*numbers, '{"a": "1"}') and not _matches(*numbers, '{"a": 1,}')


@pytest.mark.parametrize("pattern", [".*", r"[\s\S]{0,3}", r'"\\+"', r"[^a]", "[a-c]{2}", r"\u007f|\n|é|𝄞"])
def test_a_pattern_is_of_the_text_that_json_spells(pattern):
    """What matches is JSON, and what it says matches; whatever matches is there in one spelling or another."""
    rng = np.random.default_rng(0)
    automaton = compile_bytes(parse_schema(json.dumps({"type": "string", "pattern": pattern})))
    signs = list('ab"\\\n\t\x7f\x01é𝄞 u0')
    for _ in range(2000):
        said = "".join(rng.choice(signs, rng.integers(0, 5)))
        is_right = re.fullmatch(pattern, said) is not None
        assert _matches(*automaton, json.dumps(said, ensure_ascii=False).replace("\x7f", "\\u007f")) == is_right
        raw = f'"{said}"'
        if _matches(*automaton, raw):
            assert re.fullmatch(pattern, json.loads(raw))


def test_strings_have_characters_not_halves():
    automaton = compile_bytes(parse_schema('{"type": "string", "maxLength": 1}'))
    for text, right in (
        (r"\ud834\udd1e", True),
        (r"\ud834", False),
        (r"\udd1e", False),
        (r"\u00e9", True),
        ("𝄞", True),
    ):
        assert _matches(*automaton, f'"{text}"') == right


@pytest.mark.parametrize(
    "schema,said",
    [
        ('{"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": true}', "must be false"),
        ('{"type": "integer", "minimum": 3}', "json_schema.minimum"), ("{", "not JSON"), ("{}", "needs a type"),
        ('{"type": "array"}', "items"), ('{"$ref": "#/a"}', "there is no #/a"), ('{"type": "text"}', "needs a type"),
        ('{"type": "array", "items": {"$ref": "#"}}', "there is no #"),
        ('{"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}', "itself"),
        ('{"type": "object", "properties": {}, "required": ["a"]}', "'a' is not among"),
        ('{"type": "string", "minLength": "a"}', "minLength"), ('{"type": "string", "maxLength": -1}', "maxLength"),
        ('{"type": "string", "maxLength": 2.5}', "maxLength"), ('{"type": "string", "pattern": 3}', "pattern"),
        ('{"type": "string", "pattern": "a{²}"}', "no repetition"), ('{"type": []}', "json_schema.type"),
        ('{"type": [{}]}', "needs a type"), ('{"type": {}}', "needs a type"), ('{"enum": 3}', "json_schema.enum"),
        ('{"enum": []}', "json_schema.enum"), ('{"anyOf": {}}', "anyOf"), ('{"anyOf": [3]}', "anyOf[0]"),
        ('{"$ref": 3}', "$ref"), ('{"type": "object", "properties": [1]}', "properties"),
        ('{"type": "object", "required": 3}', "required"), ('{"type": "object", "required": [{}]}', "required"),
        ('{"type": "array", "items": true}', "items"), ('{"type": "object", "additionalProperties": 3}', "additional"),
        ('{"type": "array", "items": {"type": "null"}, "maxItems": true}', "maxItems"),
        ('{"const": 1e999}', "too large"), ('{"const": NaN}', "no number"), ("[" * 100_000, "too deep"),
        ('{"type": "array", "items": ' * 200 + '{"type": "null"}' + "}" * 200, "in each other"),
    ],
)  # fmt: skip
def test_what_a_schema_can_not_ask_for_is_refused(schema, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        parse_schema(schema)


PATTERNS = [r"(yes|no|perhaps)", r"[A-Z][a-z]{2,5} \d{1,3}", r"(é|ü){3}", r".*"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_drawn_matches(writer, pattern):
    config = GenerationConfig(max_new_tokens=12, temperature=1.5, num_return_sequences=8, regex=pattern)
    texts = [one.text for one in writer.texts(["the cat"], config)]
    assert all(re.fullmatch(pattern, text) for text in texts), texts
    assert len(set(texts)) > 1


def test_beams_and_greedy_match_too(writer):
    for beams in (1, 3):
        config = GenerationConfig(max_new_tokens=10, beams=beams, regex=r"[A-Z][a-z]{2,5} \d{1,3}")
        assert re.fullmatch(config.regex, writer.texts(["the cat"], config)[0].text)


def test_json_is_drawn_within_the_tokens_that_there_are(writer):
    """The shortest texts have 15 or so tokens: a text that is near its limit is closed in time."""
    config = GenerationConfig(
        max_new_tokens=30, temperature=1.5, num_return_sequences=8, json_schema=json.dumps(SCHEMA)
    )
    for one in writer.texts(["the cat"], config):
        row = json.loads(one.text)
        assert isinstance(row["age"], int) and 1 <= len(row["tags"]) <= 2 and set(row) <= set(SCHEMA["properties"])
        assert len(row.get("name", "")) <= 4


@pytest.mark.parametrize(
    "options,said",
    [
        ({"regex": "[a-z]{40}"}, "shortest text"),
        ({"regex": r"[^\x00-\uffff]\u0100", "max_new_tokens": 3}, "shortest"),
    ],
)  # fmt: skip
def test_an_impossible_constraint_is_refused(writer, options, said):
    with pytest.raises(RecipeError, match=said):
        writer.texts(["the cat"], GenerationConfig(**{"max_new_tokens": 8} | options))
