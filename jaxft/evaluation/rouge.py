"""ROUGE (Lin 2004), counted as Google's rouge-score does."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Sequence

import numpy as np

from jaxft.errors import DataError
from jaxft.evaluation.paired import check_paired
from jaxft.evaluation.scripts import is_latin

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_DIGITS = re.compile(r"\d+")
_NO_WORD = re.compile(r"[^a-z0-9]+")

Stem = Callable[[str], str]


def words_of(text: str, stem: Stem | None = None) -> list[str]:
    """The words that ROUGE compares: runs of the letters a to z and digits, in lower case.

    Args:
      text: any text; other letters part words.
      stem: from a word of more than three letters to its stem, such as `jaxft.evaluation.stemming.porter_stem`.
    """
    words = _NO_WORD.sub(" ", text.lower()).split()
    return words if stem is None else [stem(word) if len(word) > 3 else word for word in words]


def rouge_scores(
    references: Sequence[Sequence[str]], predictions: Sequence[str], stem: Stem | None = None
) -> np.ndarray:
    """F1 of words, of pairs of words, and of longest common subsequences.

    Args:
      references: one or more of each text; the best one counts, for each kind by itself. Lines are sentences.
      predictions: the texts.
      stem: see `words_of`.

    Returns:
      float64 `(texts, 4)`: `rouge1`, `rouge2`, `rougeL` and `rougeLsum`, 0 to 1.

    Raises:
      DataError: their numbers differ; or the letters of a reference are mostly not Latin, or none of them of a to z.
    """
    check_paired(references, predictions)
    scores = np.zeros((len(references), len(KINDS)))
    for number, (right, predicted) in enumerate(zip(references, predictions, strict=True)):
        for one in right:
            if not words_of(one) and any(map(str.isalnum, one)):
                problem = f"reference {number + 1} ({one!r:.40}) has no letter of a to z; use chrf"
                raise DataError(problem, "not_latin")
            if not is_latin(one):
                has = "mostly letters other than" if words_of(_DIGITS.sub("", one)) else "no letter of"
                raise DataError(f"reference {number + 1} ({one!r:.40}) has {has} a to z; use chrf", "not_latin")
        if right:
            scores[number] = np.max([_scores(one, predicted, stem) for one in right], axis=0)
    return scores


def _scores(reference: str, predicted: str, stem: Stem | None) -> list[float]:
    first, second = words_of(reference, stem), words_of(predicted, stem)
    by_words = [_ngram_f1(first, second, size) for size in (1, 2)]
    sentences = [[words_of(line, stem) for line in text.split("\n") if line] for text in (reference, predicted)]
    return [*by_words, _f1(len(common_places(first, second)), len(first), len(second)), _sentences_f1(*sentences)]


def _f1(right: float, reference: int, predicted: int) -> float:
    return 2 * right / (reference + predicted) if reference and predicted else 0.0


def _ngram_f1(reference: list[str], predicted: list[str], size: int) -> float:
    counts = [
        collections.Counter(zip(*(words[start:] for start in range(size)), strict=False))
        for words in (reference, predicted)
    ]
    return _f1((counts[0] & counts[1]).total(), counts[0].total(), counts[1].total())


def common_places(reference: Sequence[str], predicted: Sequence[str]) -> list[int]:
    """Places in the reference of a longest common subsequence, increasing."""
    if not reference or not predicted:
        return []
    other, table = np.array(predicted, object), [np.zeros(len(predicted) + 1, np.int64)]
    for word in reference:
        longer = np.maximum(table[-1][1:], table[-1][:-1] + (other == word))
        table.append(np.append(0, np.maximum.accumulate(longer)))
    places, i, j = [], len(reference), len(predicted)
    while i and j:
        if reference[i - 1] == predicted[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]


def _sentences_f1(reference: list[list[str]], predicted: list[list[str]]) -> float:
    """Of summaries: the words of each sentence that it shares, in order, with any predicted one; none counts twice."""
    left = [collections.Counter(word for sentence in side for word in sentence) for side in (reference, predicted)]
    sizes, hits = [own.total() for own in left], 0
    for sentence in reference:
        for place in sorted({place for other in predicted for place in common_places(sentence, other)}):
            if all(own[sentence[place]] > 0 for own in left):
                hits += 1
                for own in left:
                    own[sentence[place]] -= 1
    return _f1(hits, *sizes)
