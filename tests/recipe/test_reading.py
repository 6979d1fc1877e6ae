"""YAML as recipes read it, and overrides."""

from __future__ import annotations

import pytest

from jaxft.errors import RecipeError
from jaxft.recipe.reading import override, parse_document


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-4", 3e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-2.5e+3", -2500.0), ("1_000", 1000), ("12", 12),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("False", False), ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"), ("e5", "e5"), ("1.2.3", "1.2.3"), ("'3e-4'", "3e-4"),
    ],
)  # fmt: skip
def test_scalars_mean_what_a_reader_takes_them_for(written, value):
    document = parse_document(f"a: {written}\n", "r.yaml")
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)


def test_places_are_the_lines_of_the_keys():
    document = parse_document("# comment\na:\n  b: 1\n\n  c:\n    - d: 2\n", "r.yaml")
    assert document.place(("a",)) == "r.yaml:2"
    assert document.place(("a", "b")) == "r.yaml:3"
    assert document.place(("a", "c", "0", "d")) == "r.yaml:6"
    assert document.place(("a", "missing")) == "r.yaml:2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: a: this key is there twice"),
        ("a: [1, 2\n", "r.yaml:2"),
        ("- a\n- b\n", "a recipe is a mapping"),
        ("", "r.yaml is empty"),
        ("just words", "a recipe is a mapping"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_place(text, said):
    with pytest.raises(RecipeError) as error:
        parse_document(text, "r.yaml")
    assert said in str(error.value)


def test_overrides_replace_add_and_keep_the_original():
    document = parse_document("a: {b: 1, c: 2}\nd: 3\n", "r.yaml")
    changed = override(document, ["a.b=3e-4", "e.f.g=[1, two]", "d={x: 1}"])
    assert changed.value == {"a": {"b": 3e-4, "c": 2}, "d": {"x": 1}, "e": {"f": {"g": [1, "two"]}}}
    assert document.value == {"a": {"b": 1, "c": 2}, "d": 3}
    assert changed.place(("a", "b")) == "override a.b=3e-4"
    assert changed.place(("a", "c")) == "r.yaml:1"


@pytest.mark.parametrize("word", ["a.b", "=3", "a..b=1", "d.x=1", "a.b=[1"])
def test_overrides_that_cannot_be_applied_are_refused(word):
    document = parse_document("a: {b: 1}\nd: 3\n", "r.yaml")
    with pytest.raises(RecipeError) as error:
        override(document, [word])
    assert word.split("=")[0] in str(error.value)
