"""Answers compared as the scorers of SQuAD, MLQA and GSM8K compare them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxft.errors import DataError
from jaxft.evaluation.answers import (
    answer_scores,
    best_null_threshold,
    final_number,
    final_number_matches,
    normalized_answer,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Apollo program!", "apollo program"),
        ("  a   man, an apple; the END ", "man apple end"),
        ("anthem of theory", "anthem of theory"),  # articles are words of their own
        ("U.S.", "us"),
        ("it's", "its"),
        ("the", ""),
        ("“quoted” – dash", "“quoted” – dash"),  # SQuAD's scorer knows ASCII punctuation alone
    ],
)
def test_answers_are_normalized_as_squads_scorer_does(text, expected):
    assert normalized_answer(text) == expected


@pytest.mark.parametrize(
    ("references", "predicted", "exact", "f1"),
    [
        (["the Denver Broncos"], "Denver Broncos.", 1, 1),
        (["Denver Broncos"], "Denver", 0, 2 / 3),
        (["x", "Denver Broncos"], "Broncos Denver", 0, 1),  # the best of several; order does not matter to F1
        (["a b b c"], "b b b", 0, 2 * 2 / (3 + 3)),  # "a" is an article; each word counts as often as both have it
        (["Denver"], "Carolina", 0, 0),
        ([], "", 1, 1),
        ([], "Denver", 0, 0),
        (["Denver"], "", 0, 0),
        (["the"], "a", 1, 1),  # nothing is left of either
    ],
)
def test_scores_of_cases_by_hand(references, predicted, exact, f1):
    assert answer_scores([references], [predicted])[0].tolist() == pytest.approx([exact, f1])


@pytest.mark.parametrize(
    ("reference", "predicted", "exact", "f1"),
    [
        ("卡万·肖特", "卡万肖特", 1, 1),  # punctuation of Unicode
        ("黑豹队", "黑豹", 0, 2 * 2 / 5),  # by characters
        ("24 次", "24次", 1, 1),
        ("308分", "308", 0, 2 / 3),  # a number is one word
        ("東京タワー", "東京", 0, 2 * 2 / 7),
        ("สยาม", "สยาม", 1, 1),
    ],
)
def test_scripts_without_spaces_are_compared_by_characters(reference, predicted, exact, f1):
    assert answer_scores([[reference]], [predicted])[0].tolist() == pytest.approx([exact, f1])


def test_answers_of_another_number_are_refused():
    with pytest.raises(DataError, match="2 are right, but 1 are predicted"):
        answer_scores([["a"], ["b"]], ["a"])


def test_the_best_threshold_is_found_among_all():
    rng = np.random.default_rng(0)
    references = [[] if rng.random() < 0.4 else ["right"] for _ in range(60)]
    answers = ["right" if rng.random() < 0.7 else "wrong" for _ in references]
    # No answer scores better where there is none, mostly; with ties.
    differences = np.round([rng.normal(1.0 if not right else -1.0) for right in references], 1)

    def mean_f1(threshold: float) -> float:
        said = ["" if d > threshold else answer for d, answer in zip(differences, answers, strict=True)]
        return answer_scores(references, said)[:, 1].mean()

    best = mean_f1(best_null_threshold(references, answers, differences))
    assert best == max(map(mean_f1, np.linspace(-5, 5, 1001)))
    assert best > max(mean_f1(-100), mean_f1(100))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7", "7"),
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("#### 1,234 apples, not 5", "1234"),
        ("it costs $2.50", "2.5"),
        ("-12.00 degrees", "-12"),
        ("007", "7"),
        (".5", "0.5"),
        ("none", None),
        ("the answer is 1,000,000.", "1000000"),
        ("0.0", "0"),
    ],
)
def test_the_final_number_of_a_solution(text, number):
    assert final_number(text) == number


def test_solutions_match_by_their_final_numbers():
    references, said = [["#### 18"], ["#### 1,000"], ["#### 5"]], ["I think 18.0", "1000 in all", "no idea"]
    assert final_number_matches(references, said).tolist() == [1, 1, 0]
    with pytest.raises(DataError, match="reference 1 has no number"):
        final_number_matches([["none"]], ["5"])
