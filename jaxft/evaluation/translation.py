"""BLEU and chrF as sacrebleu computes them (Post 2018)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from jaxft.errors import DataError, RecipeError
from jaxft.evaluation.paired import check_paired
from jaxft.evaluation.scripts import unspaced_script

_logger = logging.getLogger("jaxft")


def _sacrebleu() -> ModuleType:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise RecipeError("the metrics bleu and chrf need sacrebleu: pip install 'jaxft[metrics]'") from error
    return sacrebleu.metrics


def _check_references(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> None:
    check_paired(references, predictions)
    if lacking := [number for number, right in enumerate(references, 1) if not right]:
        raise DataError(f"text {lacking[0]} has no reference", "no_reference")


def bleu_counts(
    references: Sequence[Sequence[str]], predictions: Sequence[str], tokenization: str = "13a"
) -> np.ndarray:
    """What BLEU sums up over the texts (Papineni et al. 2002). Sacrebleu's signature of it is logged.

    Args:
      references: one or more of each text.
      predictions: the texts.
      tokenization: sacrebleu's name: `13a` for scripts with spaces between words, `zh` for Chinese, `char`, ...

    Returns:
      int64 `(texts, 10)`: n-grams of 1 to 4 words that are right, all of them, words, words of the nearest reference.

    Raises:
      DataError: their numbers differ, a text has no reference, or `13a` finds no words since the references are of a
        script that writes no spaces between them.
      RecipeError: sacrebleu is not installed.
    """
    _check_references(references, predictions)
    script = unspaced_script(one for right in references for one in right)
    if tokenization == "13a" and script is not None:
        better = "bleu_zh" if script == "han" else "bleu_char"
        raise DataError(
            f"the references write no spaces between words, which bleu goes by; use {better}, or chrf", "no_spaces"
        )
    scorer = _sacrebleu().BLEU(effective_order=True, tokenize=tokenization)
    counts = np.zeros((len(predictions), 10), np.int64)
    for number, (right, predicted) in enumerate(zip(references, predictions, strict=True)):
        score = scorer.sentence_score(predicted, list(right))
        counts[number] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    if references:
        _logger.info("bleu: %s", _signature(references, tokenization))
    return counts


def _signature(references: Sequence[Sequence[str]], tokenization: str) -> str:
    scorer = _sacrebleu().BLEU(tokenize=tokenization)
    scorer.corpus_score([""] * len(references), _columns(references))
    return str(scorer.get_signature())


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
      DataError: their numbers differ, or a text has no reference.
      RecipeError: sacrebleu is not installed.
    """
    _check_references(references, predictions)
    scorer = _sacrebleu().CHRF()
    score = float(scorer.corpus_score(list(predictions), _columns(references)).score)
    _logger.info("chrf: %s", scorer.get_signature())
    return score


def _columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The first reference of each text, then the second; None where a text has fewer, as sacrebleu takes them."""
    most = max(map(len, references), default=0)
    return [[right[place] if place < len(right) else None for right in references] for place in range(most)]
