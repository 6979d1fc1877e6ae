"""Strict decoding: every mistake names its place, its key, what was found and what would be right."""

from __future__ import annotations

import dataclasses
from typing import Literal, NewType

import pytest
import yaml

from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.registry import kinds
from jaxft.recipe.decoding import check_annotations, decode, encode
from jaxft.recipe.reading import override, parse_document
from jaxft.recipe.schema import Recipe


@dataclasses.dataclass(frozen=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0

    def __post_init__(self):
        if self.radius <= 0:
            raise InvalidField("radius", f"must be positive, found {self.radius}")


@dataclasses.dataclass(frozen=True)
class Square:
    kind: Literal["square"] = "square"
    side: int = 1


@dataclasses.dataclass(frozen=True)
class Drawing:
    title: str
    shapes: dict[str, Circle | Square]
    layers: tuple[int, ...] = ()
    visible: bool = True
    scale: float | None = None
    colour: Literal["red", "green"] = "red"
    corners: tuple[tuple[int, float], ...] = ()


GOOD = "title: t\nshapes:\n  a: {kind: circle, radius: 2}\n  b: {kind: square, side: 3}\nlayers: [1, 2]\nscale: 3e-4\n"
GOOD += "corners: [[1, 2.5], [3, 4]]\n"


def test_values_arrive_with_their_types():
    drawing = decode(parse_document(GOOD, "d.yaml"), Drawing)
    shapes = {"a": Circle(radius=2.0), "b": Square(side=3)}
    assert drawing == Drawing("t", shapes, (1, 2), True, 3e-4, "red", ((1, 2.5), (3, 4.0)))
    assert isinstance(drawing.shapes["a"].radius, float)


def test_a_single_value_stands_for_a_list_of_one():
    assert decode(parse_document("title: t\nshapes: {}\nlayers: 7\n", "d.yaml"), Drawing).layers == (7,)


def test_encoding_decodes_to_the_same():
    drawing = decode(parse_document(GOOD, "d.yaml"), Drawing)
    assert decode(parse_document(yaml.safe_dump(encode(drawing)), "again.yaml"), Drawing) == drawing


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: t\nshape: {}\n", ["d.yaml:2: shape: unknown key", "did you mean shapes?"]),
        ("shapes: {}\n", ["d.yaml: recipe: the key title is missing"]),
        ("title: 3\nshapes: {}\n", ["d.yaml:1: title: expected text, found 3", 'quote it: "3"']),
        ("title: t\nshapes: {}\nlayers: [1, x]\n", ["d.yaml:3: layers.1: expected a whole number, found 'x'"]),
        ("title: t\nshapes: {}\nlayers: 1.5\n", ["layers.0: expected a whole number, found 1.5"]),
        ("title: t\nshapes: {}\nvisible: 1\n", ["d.yaml:3: visible: expected true or false, found 1"]),
        ("title: t\nshapes: {}\nscale: true\n", ["d.yaml:3: scale: expected a number, found True"]),
        ("title: t\nshapes: {}\ncolour: gren\n", ["expected one of red, green, found 'gren'; did you mean green?"]),
        ("title: t\nshapes: {a: {kind: circl}}\n", ["d.yaml:2: shapes.a.kind", "did you mean circle?"]),
        ("title: t\nshapes: {a: {radius: 1}}\n", ["shapes.a: expected a mapping with `kind`, one of circle, square"]),
        ("title: t\nshapes: {a: {kind: square, radius: 1}}\n", ["shapes.a.radius: unknown key"]),
        (
            "title: t\nshapes:\n  a:\n    kind: circle\n    radius: -1\n",
            ["d.yaml:5: shapes.a.radius: must be positive, found -1.0"],
        ),
        ("title: t\nshapes: {'a b': {kind: circle}}\n", ["shapes.a b: a name consists of letters"]),
        ("title: t\nshapes: 3\n", ["d.yaml:2: shapes: expected names with values, found 3"]),
        ("title: t\nshapes:\n", ["d.yaml:2: shapes: expected names with values, found nothing"]),
        ("title: t\nshapes: {}\ncorners: [[1]]\n", ["d.yaml:3: corners.0: expected a list of 2, found a list of 1"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(text, said):
    with pytest.raises(RecipeError) as error:
        decode(parse_document(text, "d.yaml"), Drawing)
    for part in said:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


Column = NewType("Column", str)


@dataclasses.dataclass(frozen=True)
class Choice:
    columns: dict[Column, tuple[str | int | bool, ...]]


def test_keys_that_are_the_data_s_may_be_any_text_and_values_of_several_kinds_keep_theirs():
    text = "columns:\n  'review body': 1\n  3: [a, true, 2]\n  é: '1'\n"
    choice = decode(parse_document(text, "d.yaml"), Choice)
    assert choice.columns == {"review body": (1,), "3": ("a", True, 2), "é": ("1",)}
    assert [type(value) for value in choice.columns["3"]] == [str, bool, int]
    again = parse_document(yaml.safe_dump(encode(choice)), "again.yaml")
    assert decode(again, Choice) == choice
    assert decode(override(again, ["columns={5: x}"]), Choice).columns == {"5": ("x",)}
    for wrong, found in (("[[1]]", "a list of 1"), ("null", "nothing"), ("1.5", "1.5")):
        with pytest.raises(RecipeError, match=f"columns.a.0: expected text or a whole number or true .*found {found}"):
            decode(parse_document(f"columns: {{a: {wrong}}}", "d.yaml"), Choice)


@dataclasses.dataclass(frozen=True)
class Search:
    ends: Literal[True, False, "never"] = False


@pytest.mark.parametrize("value", [True, False, "never"])
def test_a_choice_may_be_true_or_false_beside_words(value):
    text = yaml.safe_dump({"ends": value})
    assert decode(parse_document(text, "s.yaml"), Search) == Search(value)


@pytest.mark.parametrize("value", [1, 0, "true", "no"])
def test_what_equals_a_choice_is_not_yet_one(value):
    with pytest.raises(RecipeError, match="expected one of True, False, never"):
        decode(parse_document(yaml.safe_dump({"ends": value}), "s.yaml"), Search)


@dataclasses.dataclass(frozen=True)
class Unsayable:
    numbers: tuple[int, ...] = ()
    names: list[str] | None = None


@dataclasses.dataclass(frozen=True)
class Mixed:
    either: int | Circle = 1


@pytest.mark.parametrize("config", [Recipe, Drawing, *kinds().values()])
def test_a_recipe_can_say_every_field_of_our_own_configs(config):
    check_annotations(config)


@pytest.mark.parametrize(
    ("config", "said"), [(Unsayable, "names: a recipe cannot say list"), (Mixed, "either: a recipe")]
)
def test_a_field_that_no_recipe_can_say_is_named(config, said):
    with pytest.raises(InvalidField, match=said):
        check_annotations(config)
