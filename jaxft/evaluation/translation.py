"""BLEU and chrF as sacrebleu computes them (Post 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from jaxft.errors import RecipeError
from jaxft.evaluation.paired import check_paired


def _sacrebleu() -> ModuleType:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise RecipeError("the metrics bleu and chrf need sacrebleu: pip install 'jaxft[metrics]'") from error
    return sacrebleu.metrics


def bleu_counts(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """What BLEU sums up over the texts (Papineni et al. 2002), with sacrebleu's tokenization 13a.

    Args:
      references: one or more of each text.
      predictions: the texts.

    Returns:
      int64 `(texts, 10)`: n-grams of 1 to 4 words that are right, all of them, words, words of the nearest reference.

    Raises:
      DataError: their numbers differ.
      RecipeError: sacrebleu is not installed.
    """
    check_paired(references, predictions)
    scorer, counts = _sacrebleu().BLEU(effective_order=True), np.zeros((len(predictions), 10), np.int64)
    for number, (right, predicted) in enumerate(zip(references, predictions, strict=True)):
        score = scorer.sentence_score(predicted, list(right))
        counts[number] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return counts


def bleu(counts: np.ndarray) -> float:
    """BLEU of a corpus, 0 to 100, from the counts of its texts.

    Args:
      counts: of `bleu_counts`.
    """
    total = counts.sum(0).tolist()
    score = _sacrebleu().BLEU.compute_bleu(total[:4], total[4:8], total[8], total[9], smooth_method="exp")
    return float(score.score)


def chrf(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> float:
    """chrF2 of a corpus, 0 to 100 (Popović 2015): characters up to six in a row, spaces left out.

    Args:
      references: one or more of each text.
      predictions: the texts.

    Raises:
      DataError: their numbers differ.
      RecipeError: sacrebleu is not installed.
    """
    check_paired(references, predictions)
    most = max(map(len, references), default=0)
    # sacrebleu takes None where a text has fewer references than others.
    columns = [[right[place] if place < len(right) else None for right in references] for place in range(most)]
    return float(_sacrebleu().CHRF().corpus_score(list(predictions), columns).score)
