"""Metrics of examples that were drawn anew are those of the same examples by themselves."""

from __future__ import annotations

import types

import numpy as np
import pytest

from jaxft.data.tags import TagSet
from jaxft.evaluation.evaluated import Evaluated
from jaxft.evaluation.measures import MEASURES, TABLES, WITHOUT_INTERVAL

TAGS = ("O", "B-A", "I-A", "B-B", "I-B")
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "7", "dogs", "ran", "fast"]
COUNT = 12


def said_of(records, outputs=None):
    return [record["said"] for record in records if record["begins"]]


def right_of(records):
    return [record["right"] for record in records if record["begins"]]


OBJECTIVE = types.SimpleNamespace(predictions=said_of, references=right_of, tag_set=TagSet(TAGS), threshold=0.3)


def examples(seed: int) -> list[dict]:
    """What there is to say of examples of every task."""
    rng, made = np.random.default_rng(seed), []
    for number in range(COUNT):
        size = int(rng.integers(1, 7))
        sides = [[str(tag) for tag in rng.choice(TAGS, size)] for _ in range(2)]
        texts = [f"{' '.join(rng.choice(WORDS, rng.integers(2, 9)))} {rng.integers(3)}" for _ in range(3)]
        right = {"tags": sides[0], "answers": texts[:2] if number % 4 else texts[:1]}
        said = {"tags": sides[1] if number % 3 else sides[0], "answer": texts[number % 3], "best_answer": texts[2]}
        made.append({"right": right, "said": {**said, "null_difference": float(rng.normal())}})
    return made


def evaluated(chosen: list[dict], outputs: dict[str, np.ndarray]) -> Evaluated:
    """Every example in two rows, as long ones are."""
    records = [{**example, "begins": begins} for example in chosen for begins in (True, False)]
    return Evaluated(OBJECTIVE, records, {name: np.repeat(array, 2, axis=0) for name, array in outputs.items()})


def outputs_for(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    several = {"samples_f1", "subset_accuracy", "hamming_loss"}
    label = (rng.random((COUNT, 3)) < 0.5).astype(np.float32) if name in several else np.arange(COUNT) % 3
    return {
        "logits": rng.normal(size=(COUNT, 3)),
        "label": label,
        "vectors": rng.normal(size=(COUNT, 2, 4)),
        "similarity": rng.normal(size=COUNT),
        "score": rng.normal(size=COUNT),
        "pseudo_log_likelihood": rng.normal(size=COUNT),
        "scored_tokens": np.ones(COUNT),
        **(
            {"target": rng.normal(size=(COUNT, 2)), "predicted": rng.normal(size=(COUNT, 2))}
            if name in ("mse", "mae", "r2")
            else {}
        ),
    }


# Queries look for their documents among all of the whole data, whichever queries are drawn.
OF_ALL = {"mrr", "map", "ndcg_at_10", "recall_at_1", "recall_at_5", "recall_at_10"}


@pytest.mark.parametrize("name", sorted(set(MEASURES) - WITHOUT_INTERVAL - OF_ALL))
def test_a_metric_of_drawn_examples_is_that_of_those_examples(name):
    rng = np.random.default_rng(0)
    made, outputs = examples(1), outputs_for(name, rng)
    whole = evaluated(made, outputs)
    assert len(whole) == COUNT
    for _ in range(3):
        chosen = np.append(rng.integers(COUNT, size=COUNT - 3), [0, 1, 2])  # of every label one at least
        alone = evaluated([made[i] for i in chosen], {key: array[chosen] for key, array in outputs.items()})
        found, expected = MEASURES[name](whole.drawn(chosen)), MEASURES[name](alone)
        assert found == expected if name in TABLES else found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", sorted(OF_ALL))
def test_queries_are_drawn_and_documents_are_not(name):
    whole = evaluated(examples(1), outputs_for(name, np.random.default_rng(0)))
    alone = [MEASURES[name](whole.drawn(np.array([number]))) for number in range(COUNT)]
    chosen = np.array([3, 3, 5])
    assert MEASURES[name](whole.drawn(chosen)) == pytest.approx(np.mean([alone[i] for i in chosen]))


def test_repaired_tags_are_the_words_that_begin_an_entity_without_its_begin():
    tags = [["I-A", "I-A", "O", "B-B"], ["B-A", "I-B"]]
    made = [{"said": {"tags": own}, "right": {"tags": own}} for own in tags]
    assert MEASURES["repaired_tags"](evaluated(made, {"x": np.zeros(2)})) == pytest.approx(2 / 6)
