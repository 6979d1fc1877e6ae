"""Entities out of tags, by the rules of conlleval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxft.data.tags import TagSet

LABELS = ("O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIESLU"))


def entities(tags: str, labels=LABELS) -> list[tuple[str, int, int]]:
    found = TagSet(labels)
    numbers = np.array([labels.index(tag) for tag in tags.split()], int)
    return [(found.types[kind], start, end) for kind, start, end in found.entities(numbers).tolist()]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),  # IO
        ("O I-PER I-LOC", [("PER", 1, 2), ("LOC", 2, 3)]),  # another type begins another one
        ("B-PER I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 2), ("PER", 2, 3)]),
        ("S-PER B-LOC I-LOC E-LOC S-LOC", [("PER", 0, 1), ("LOC", 1, 4), ("LOC", 4, 5)]),
        ("U-PER B-LOC L-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3), ("LOC", 3, 4)]),
        ("E-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER", [("PER", 0, 1)]),
    ],
)
def test_entities_are_those_of_conlleval(tags, expected):
    assert entities(tags) == expected


def by_the_script(tags: list[str]) -> list[tuple[str, int, int]]:
    """The two tables of conlleval.pl, for each place between two words."""
    found, start = [], None
    before, before_kind = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        pair = before + prefix
        changed = before_kind != kind
        ends = pair in ("BB", "BO", "IB", "IO", "EE", "EI", "EO", "EB") or (before != "O" and changed)
        starts = pair in ("BB", "IB", "OB", "OI", "EE", "EI", "OE", "EB") or (prefix != "O" and changed)
        if start is not None and ends:
            found.append((before_kind, start, place))
            start = None
        if starts:
            start = place
        before, before_kind = prefix, kind
    return found


def test_all_short_sequences_are_read_as_the_script_reads_them():
    labels = ("O", "B-A", "I-A", "E-A", "B-B", "I-B", "E-B")
    for tags in itertools.product(labels, repeat=4):
        assert entities(" ".join(tags), labels) == by_the_script(list(tags)), tags


def test_no_entity_crosses_the_place_between_two_sentences():
    labels = ("O", "B-A", "I-A")
    found = TagSet(labels).entities(np.array([1, 2, -1, 2, -1, 0]))
    assert found.tolist() == [[0, 0, 2], [0, 3, 4]]


@pytest.mark.parametrize(
    ("tags", "flaws", "repaired"),
    [
        ("O I-PER I-PER B-LOC", 1, "O B-PER I-PER B-LOC"),
        ("B-PER I-LOC", 1, "B-PER B-LOC"),
        ("E-PER O L-LOC", 2, "S-PER O U-LOC"),
        ("B-PER I-PER E-PER", 0, "B-PER I-PER E-PER"),
    ],
)
def test_an_entity_without_its_begin_is_repaired(tags, flaws, repaired):
    known = TagSet(LABELS)
    numbers = np.array([LABELS.index(tag) for tag in tags.split()])
    assert int(known.flaws(numbers).sum()) == flaws
    assert " ".join(LABELS[number] for number in known.repaired(numbers)) == repaired
    assert not known.flaws(known.repaired(numbers)).any()
    assert entities(repaired) == entities(tags)


def test_without_a_begin_in_the_scheme_nothing_is_flawed():
    known = TagSet(("O", "I-A", "I-B"))
    assert not known.flaws(np.array([1, 1, 2, 0, 1])).any()


def test_parts_of_speech_are_no_entities():
    known = TagSet(("NOUN", "VERB", "X-ray"))
    assert known.types == () and not len(known.entities(np.array([0, 1, 2])))
    assert TagSet(("O", "B-A")).types == ("A",)
