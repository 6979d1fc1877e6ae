"""Metrics of answers: exact match and F1 of words as SQuAD has them, and the number at the end of a solution."""

from __future__ import annotations

import collections
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from jaxft.errors import DataError
from jaxft.evaluation.paired import check_paired
from jaxft.evaluation.scripts import WITHOUT_SPACES

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")


def normalized_answer(text: str, without_spaces: bool = False) -> str:
    """An answer as SQuAD compares it: in lower case, without punctuation and articles, with single spaces.

    Args:
      text: the answer.
      without_spaces: whether it is of a script that writes no spaces between words; then all punctuation of Unicode is
        left out, and each character of such a script is a word, as in MLQA (Lewis et al. 2019).
    """
    kept = text.lower()
    if without_spaces:
        kept = "".join(c for c in kept if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
        kept = WITHOUT_SPACES.sub(r" \g<0> ", kept)
    else:
        kept = "".join(c for c in kept if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def answer_scores(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """Exact match and F1 of each answer, against the best of its references (Rajpurkar et al. 2016, 2018).

    An answer to a question that has none is right where it is empty. Where an answer or a reference is of a script
    without spaces, such as Chinese, both are compared by characters.

    Args:
      references: the right answers of each question; none where it has none.
      predictions: an answer for each.

    Returns:
      float64 `(questions, 2)`.

    Raises:
      DataError: their numbers differ.
    """
    return scores_of_best(references, predictions, _compared)


def scores_of_best(
    references: Sequence[Sequence[str]],
    predictions: Sequence[str],
    compared: Callable[[str, str], tuple[float, float]],
) -> np.ndarray:
    """Two scores of each answer, each the best that any of its references gives.

    Args:
      references: the right answers of each question; none where it has none, whose right answer is empty.
      predictions: an answer for each.
      compared: from a reference and an answer to their scores.

    Returns:
      float64 `(questions, 2)`.

    Raises:
      DataError: their numbers differ.
    """
    check_paired(references, predictions)
    scores = np.zeros((len(references), 2))
    for number, (right, predicted) in enumerate(zip(references, predictions, strict=True)):
        scores[number] = np.max([compared(one, predicted) for one in (right or [""])], axis=0)
    return scores


def _compared(reference: str, predicted: str) -> tuple[float, float]:
    without_spaces = WITHOUT_SPACES.search(reference + predicted) is not None
    first, second = (normalized_answer(text, without_spaces) for text in (reference, predicted))
    return float(first == second), _word_f1(first.split(), second.split())


def _word_f1(reference: list[str], predicted: list[str]) -> float:
    """F1 of two bags of words; where one is empty, whether both are."""
    if not reference or not predicted:
        return float(reference == predicted)
    common = (collections.Counter(reference) & collections.Counter(predicted)).total()
    return 2 * common / (len(reference) + len(predicted))


def best_null_threshold(references: Sequence[Sequence[str]], answers: Sequence[str], differences: np.ndarray) -> float:
    """The threshold on how much better no answer scores with which F1 is best, as SQuAD 2's scorer finds it.

    Args:
      references: the right answers of each question; none where it has none.
      answers: the best answer to each that is not empty.
      differences: float `(questions,)`, score of no answer less that of the best one.

    Returns:
      The value for `null_threshold`: questions with a larger difference get no answer.

    Raises:
      DataError: their numbers differ.
    """
    answered = answer_scores(references, answers)[:, 1]
    check_paired(references, differences)
    unanswered = np.array([float(not right) for right in references])
    order = np.argsort(differences, kind="stable")
    totals = unanswered.sum() + np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    # Questions of equal difference are answered together.
    values = np.asarray(differences, np.float64)[order]
    possible = np.append(True, np.append(values[1:] > values[:-1], True)) if len(values) else np.array([True])
    best = int(np.argmax(np.where(possible, totals, -np.inf)))
    return float(values[best - 1]) if best else float(values[0] - 1.0) if len(values) else 0.0


def final_number(text: str) -> str | None:
    """The last number of a text without commas, currency and closing zeros; None where there is none.

    After `####`, as GSM8K marks it (Cobbe et al. 2021), the first one counts.
    """
    marked = text.rpartition("####")
    found = _NUMBER.findall(marked[2])
    if not found:
        return None
    number = (found[0] if marked[1] else found[-1]).replace(",", "").replace("$", "")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return "0" if number in ("", "-", "-0") else re.sub(r"^(-?)0+(?=\d)", r"\1", re.sub(r"^(-?)\.", r"\g<1>0.", number))


def final_number_matches(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """Whether each text ends with the number that one of its references ends with, float64 `(examples,)`.

    Raises:
      DataError: their numbers differ, or a reference has no number.
    """
    check_paired(references, predictions)
    matches = np.zeros(len(references))
    for number, (right, predicted) in enumerate(zip(references, predictions, strict=True)):
        wanted = [final_number(one) for one in right]
        if None in wanted or not wanted:
            raise DataError(f"reference {number + 1} has no number: {right!r:.80}", "no_number")
        matches[number] = final_number(predicted) in wanted
    return matches
