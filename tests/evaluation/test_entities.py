"""Precision, recall and F1 of entities."""

from __future__ import annotations

import numpy as np
import pytest

from jaxft.data.tags import TagSet
from jaxft.errors import DataError
from jaxft.evaluation.entities import entity_counts, entity_report, macro_f1, precision_recall_f1

TAGS = TagSet(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
RIGHT = [
    ["B-PER", "I-PER", "O", "O", "B-LOC"],
    ["O", "O"],
    ["B-LOC", "B-LOC", "I-LOC"],
]
PREDICTED = [
    ["B-PER", "I-PER", "O", "I-LOC", "B-LOC"],  # both right, and one that is not there (an I- of its own)
    ["B-PER", "O"],  # one too many
    ["B-LOC", "I-LOC", "I-LOC"],  # neither: one is too long
]


def test_counts_of_a_case_by_hand():
    """What conlleval prints of it: processed 10 tokens with 4 phrases; found: 5 phrases; correct: 2."""
    counts = entity_counts(RIGHT, PREDICTED, TAGS)
    assert counts.sum((0, 1)).tolist() == [2, 5, 4]
    assert counts[:, 0].tolist() == [[1, 2, 1], [0, 0, 0], [0, 1, 2]]  # LOC
    assert counts[:, 1].tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]  # PER
    assert precision_recall_f1(counts.sum((0, 1))).tolist() == pytest.approx([2 / 5, 2 / 4, 4 / 9])
    report = entity_report(counts.sum(0), TAGS.types)
    assert [(row["type"], row["right"], row["predicted"], row["there"]) for row in report] == [
        ("LOC", 1, 3, 3),
        ("PER", 1, 2, 1),
    ]
    assert [row["f1"] for row in report] == pytest.approx([1 / 3, 2 / 3])
    assert macro_f1(counts.sum(0)) == pytest.approx(1 / 2)


def test_a_type_must_be_right_and_so_must_both_ends():
    for predicted in (["B-LOC", "I-LOC", "O"], ["B-PER", "O", "O"], ["B-PER", "I-PER", "I-PER"]):
        counts = entity_counts([["B-PER", "I-PER", "O"]], [predicted], TAGS)
        assert counts.sum((0, 1)).tolist() == [0, 1, 1]


def test_nothing_to_find_is_no_division_by_zero():
    counts = entity_counts([["O"]], [["O"]], TAGS)
    assert precision_recall_f1(counts.sum((0, 1))).tolist() == [0, 0, 0] and macro_f1(counts.sum(0)) == 0


@pytest.mark.parametrize("predicted", [RIGHT[:2], [*RIGHT[:2], ["O"]]])
def test_predictions_of_another_number_are_refused(predicted):
    with pytest.raises(DataError, match="there must be as many"):
        entity_counts(RIGHT, predicted, TAGS)


def test_counts_of_sentences_do_not_depend_on_their_neighbours():
    rng = np.random.default_rng(0)
    sides = [[[str(rng.choice(TAGS.labels)) for _ in range(size)] for size in (3, 1, 6, 4)] for _ in range(2)]
    together = entity_counts(*sides, TAGS)
    alone = [entity_counts([one], [other], TAGS)[0] for one, other in zip(*sides, strict=True)]
    np.testing.assert_array_equal(together, alone)
