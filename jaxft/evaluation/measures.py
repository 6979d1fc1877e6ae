"""Metrics that need what a model says of all examples, by name; all others are ratios of sums that the loss gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from jaxft.data.tags import TagSet
from jaxft.evaluation import answers, calibration, entities, multi_label, ranking, regression, retrieval, rouge
from jaxft.evaluation.classification import CLASSIFICATION_METRICS, confusion_matrix
from jaxft.evaluation.cmrc import cmrc_scores
from jaxft.evaluation.evaluated import Evaluated
from jaxft.evaluation.similarity import alignment, pearson, spearman, uniformity
from jaxft.evaluation.stemming import porter_stem
from jaxft.evaluation.translation import bleu, bleu_counts, chrf
from jaxft.extension.table import OpenTable
from jaxft.objectives.multi_label_classification import MultiLabelClassification
from jaxft.objectives.token_classification import TokenClassification

Measure = Callable[[Evaluated], Any]


def _of_similarity(metric: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    return lambda evaluated: metric(evaluated.outputs["similarity"], evaluated.outputs["score"])


# --- One label of several ---


def _of_labels(metric: Callable[[np.ndarray], Any]) -> Measure:
    def measure(evaluated: Evaluated) -> Any:
        logits = evaluated.outputs["logits"]
        return metric(confusion_matrix(evaluated.outputs["label"], logits.argmax(-1), logits.shape[-1]))

    return measure


def _of_probabilities(metric: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    def measure(evaluated: Evaluated) -> float:
        labels, logits = evaluated.outputs["label"], evaluated.outputs["logits"]
        return metric(labels, logits if labels.ndim == 2 else calibration.softmax(logits))

    return measure


# --- Any number of labels at once ---


def _of_label_sets(metric: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    def measure(evaluated: Evaluated) -> float:
        threshold = cast(MultiLabelClassification, evaluated.objective).threshold
        logit = math.log(threshold / (1 - threshold))  # where the sigmoid reaches it
        return metric(evaluated.outputs["label"] > 0, evaluated.outputs["logits"] >= logit)

    return measure


def _by_labels(single: Measure, several: Measure) -> Measure:
    """The metric of one label of several, or of any number of labels at once, whichever the objective has."""
    return lambda evaluated: (several if evaluated.outputs["label"].ndim == 2 else single)(evaluated)


def _label_metrics() -> dict[str, Measure]:
    single = {name: _of_labels(metric) for name, metric in CLASSIFICATION_METRICS.items()}
    several = {name: _of_label_sets(metric) for name, metric in multi_label.MULTI_LABEL_METRICS.items()}
    both = {name: _by_labels(single[name], several[name]) for name in single.keys() & several.keys()}
    return {**single, **several, **both}


# --- Numbers ---


def _of_numbers(metric: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    """Of several targets the mean of the metric."""

    def measure(evaluated: Evaluated) -> float:
        targets, predicted = (evaluated.outputs[name].astype(np.float64) for name in ("target", "predicted"))
        return float(np.mean([metric(own, guess) for own, guess in zip(targets.T, predicted.T, strict=True)]))

    return measure


def _correlation(metric: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    of_numbers, of_similarity = _of_numbers(metric), _of_similarity(metric)
    return lambda evaluated: (of_numbers if "target" in evaluated.outputs else of_similarity)(evaluated)


# --- Entities ---


def _tag_set(evaluated: Evaluated) -> TagSet:
    return cast(TokenClassification, evaluated.objective).tag_set  # which alone has these metrics


def _entity_counts(evaluated: Evaluated) -> np.ndarray:
    right, predicted = ([one["tags"] for one in side] for side in (evaluated.references, evaluated.predictions))
    return entities.entity_counts(right, predicted, _tag_set(evaluated))


def _of_entities(column: int) -> Measure:
    def measure(evaluated: Evaluated) -> float:
        counts = evaluated.scores(_entity_counts)
        return float(entities.precision_recall_f1(counts.sum((0, 1)))[column])

    return measure


def _repairs(evaluated: Evaluated) -> np.ndarray:
    known = _tag_set(evaluated)
    numbers = {label: number for number, label in enumerate(known.labels)}
    tags = (np.array([numbers[tag] for tag in one["tags"]]) for one in evaluated.predictions)
    return np.array([(known.flaws(own).sum(), len(own)) for own in tags])


def _repaired_tags(evaluated: Evaluated) -> float:
    flaws, words = evaluated.scores(_repairs).sum(0)
    return float(flaws / max(words, 1))


# --- Texts ---


def _texts(evaluated: Evaluated) -> tuple[list[list[str]], list[str]]:
    references = [one["answers"] for one in evaluated.references]
    return references, [one["answer"] for one in evaluated.predictions]


def _answer_scores(evaluated: Evaluated) -> np.ndarray:
    return answers.answer_scores(*_texts(evaluated))


def _cmrc_scores(evaluated: Evaluated) -> np.ndarray:
    return cmrc_scores(*_texts(evaluated))


def _final_numbers(evaluated: Evaluated) -> np.ndarray:
    return answers.final_number_matches(*_texts(evaluated))


def _rouge_scores(evaluated: Evaluated) -> np.ndarray:
    return rouge.rouge_scores(*_texts(evaluated))


def _stemmed_rouge_scores(evaluated: Evaluated) -> np.ndarray:
    return rouge.rouge_scores(*_texts(evaluated), porter_stem)


def _bleu(tokenization: str) -> Measure:
    def counts(evaluated: Evaluated) -> np.ndarray:
        return bleu_counts(*_texts(evaluated), tokenization)

    return lambda evaluated: bleu(evaluated.scores(counts))


def _mean_of(scores: Callable[[Evaluated], np.ndarray], column: int = 0) -> Measure:
    """The mean over the examples of a column of their scores."""

    def measure(evaluated: Evaluated) -> float:
        own = evaluated.scores(scores)
        return float(own.reshape(len(own), -1)[:, column].mean())

    return measure


def _best_null_threshold(evaluated: Evaluated) -> float:
    guessed = evaluated.predictions
    differences = np.array([one["null_difference"] for one in guessed])
    return answers.best_null_threshold(_texts(evaluated)[0], [one["best_answer"] for one in guessed], differences)


# --- Vectors ---


def _retrieval_scores(evaluated: Evaluated) -> np.ndarray:
    vectors = evaluated.outputs["vectors"]
    relevant = np.arange(len(vectors))
    return retrieval.scores_of_queries(vectors[:, 0], vectors[:, 1], relevant[:, None] == relevant)


def _pseudo_perplexity(evaluated: Evaluated) -> float:
    total = evaluated.outputs["pseudo_log_likelihood"].sum(dtype=np.float64)
    return math.exp(min(-total / max(evaluated.outputs["scored_tokens"].sum(), 1), 700.0))


_OWN: dict[str, Measure] = {
    **_label_metrics(),
    **{name: _of_probabilities(metric) for name, metric in ranking.RANKING_METRICS.items()},
    **{name: _of_probabilities(metric) for name, metric in calibration.CALIBRATION_METRICS.items()},
    **{name: _of_numbers(metric) for name, metric in regression.REGRESSION_METRICS.items()},
    "spearman": _correlation(spearman),
    "pearson": _correlation(pearson),
    "entity_precision": _of_entities(0),
    "entity_recall": _of_entities(1),
    "entity_f1": _of_entities(2),
    "entity_macro_f1": lambda evaluated: entities.macro_f1(evaluated.scores(_entity_counts).sum(0)),
    "entity_report": lambda evaluated: entities.entity_report(
        evaluated.scores(_entity_counts).sum(0), _tag_set(evaluated).types
    ),
    "repaired_tags": _repaired_tags,
    "exact_match": _mean_of(_answer_scores, 0),
    "answer_f1": _mean_of(_answer_scores, 1),
    "cmrc_exact_match": _mean_of(_cmrc_scores, 0),
    "cmrc_f1": _mean_of(_cmrc_scores, 1),
    "best_null_threshold": _best_null_threshold,
    "final_number": _mean_of(_final_numbers),
    **{name: _mean_of(_rouge_scores, column) for column, name in enumerate(rouge.KINDS)},
    **{f"{name}_stemmed": _mean_of(_stemmed_rouge_scores, column) for column, name in enumerate(rouge.KINDS)},
    "bleu": _bleu("13a"),
    "bleu_zh": _bleu("zh"),
    "bleu_char": _bleu("char"),
    "chrf": lambda evaluated: chrf(*_texts(evaluated)),
    **{name: _mean_of(_retrieval_scores, column) for column, name in enumerate(retrieval.SCORES)},
    "alignment": lambda evaluated: alignment(evaluated.outputs["vectors"]),
    "uniformity": lambda evaluated: uniformity(evaluated.outputs["vectors"]),
    "pseudo_perplexity": _pseudo_perplexity,
}

MEASURES = OpenTable("metric", _OWN)

# Those that are no single number.
TABLES = frozenset({"confusion_matrix", "entity_report"})
# Those that say nothing of examples that were drawn twice, or take too long for a thousand draws of them.
WITHOUT_INTERVAL = frozenset({"uniformity", "chrf", "best_null_threshold"})
