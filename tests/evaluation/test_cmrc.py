"""Answers in Chinese compared by the rules of CMRC 2018's scorer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxft.errors import DataError
from jaxft.evaluation.cmrc import cmrc_scores


@pytest.mark.parametrize(
    ("references", "predicted", "exact", "f1"),
    [
        (["卡万·肖特"], "卡万肖特", 1, 1),
        (["黑豹队"], "黑豹", 0, 2 * 2 / 5),
        (["24 次"], "24次", 0, 1),  # a space within is kept for the exact match alone
        (["308分"], "308", 0, 2 / 3),
        (["北京大学"], "北方大学", 0, 2 * 2 / 8),  # 大学 is the longest run; a bag would have three characters
        (["大学北京"], "北京大学", 0, 2 * 2 / 8),
        (["GPT模型"], "gpt模型。", 1, 1),
        (["x", "黑豹队"], "黑豹队", 1, 1),
        (["3.5公里"], "3.5公里", 1, 1),
        (["黑豹"], "", 0, 0),
        ([], "", 1, 1),
        ([], "黑豹", 0, 0),
    ],
)
def test_scores_of_cases_by_hand(references, predicted, exact, f1):
    assert cmrc_scores([references], [predicted])[0].tolist() == pytest.approx([exact, f1])


def test_the_longest_run_is_that_of_a_search_through_all():
    rng = np.random.default_rng(0)
    for _ in range(100):
        first, second = ("".join(rng.choice(list("一二三四"), rng.integers(1, 8))) for _ in range(2))
        runs = (first[start:end] for start, end in itertools.combinations(range(len(first) + 1), 2))
        longest = max((len(run) for run in runs if run in second), default=0)
        assert cmrc_scores([[first]], [second])[0, 1] == pytest.approx(2 * longest / (len(first) + len(second)))


def test_answers_of_another_number_are_refused():
    with pytest.raises(DataError, match="2 are right, but 1 are predicted"):
        cmrc_scores([["一"], ["二"]], ["一"])
