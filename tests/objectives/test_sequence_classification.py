"""Sequence classification: which labels there are, how texts are laid out, and the loss."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from support.settings import setting_of

from jaxft.data.batches import example_generator
from jaxft.data.sources import Row
from jaxft.data.store import TOKENS
from jaxft.errors import DataError, InvalidField
from jaxft.objectives.sequence_classification import (
    SequenceClassification,
    SequenceClassificationConfig,
    label_text,
)
from jaxft.training.step import bind

LENGTH = 24


def rows(*labels, column="label"):
    return [Row({"text": f"text {i}", column: label}, f"a.jsonl:{i + 1}") for i, label in enumerate(labels)]


def find_labels(rows, column, said):
    """As a run finds them in its training data."""
    config = SequenceClassificationConfig(label=column)
    return config.completed(map(config.target_of, rows), said).labels


def make(tokenizer, **options) -> SequenceClassification:
    config = SequenceClassificationConfig(**{"labels": ("bad", "fair", "good"), **options})
    return SequenceClassification(config, setting_of(tokenizer, LENGTH, "task"))


# --- Labels ---


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["b", "a", "b", "c"], ("a", "b", "c")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "-1", 3], ("-1", "3", "9", "10")),
        ([True, False], ("False", "True")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["好", "坏"], tuple(sorted(["好", "坏"]))),
        (["²", "1", "3"], ("1", "3", "²")),  # a digit to Python, but no number
        (["--5", "1"], ("--5", "1")),
    ],
)
def test_labels_are_found_and_sorted(labels, found):
    assert find_labels(rows(*labels), "label", "streams.task") == found


def test_numbers_written_in_two_ways_keep_one_order():
    """They are different labels; which comes first must not depend on the order of a set."""
    numbers = [f"{i:0{width}}" for i in range(1, 10) for width in (1, 2, 3)]
    assert find_labels(rows(*numbers), "label", "x") == tuple(
        f"{i:0{width}}" for i in range(1, 10) for width in (3, 2, 1)
    )


@pytest.mark.parametrize(("labels", "message"), [(["a", "a"], "only the label 'a'"), ([], "no examples")])
def test_one_label_is_not_enough(labels, message):
    with pytest.raises(DataError, match=rf"streams\.task: column 'label' holds {message}"):
        find_labels(rows(*labels), "label", "streams.task")


@pytest.mark.parametrize("label", [0.5, 1.0, None, "", ["a"], {"a": 1}])
def test_what_is_no_label_is_named_with_its_place(label):
    with pytest.raises(DataError, match=r"a\.jsonl:2: column 'label' must hold a label"):
        find_labels(rows("a", label), "label", "streams.task")


def test_labels_of_any_kind_are_text():
    assert [label_text(row, "label") for row in rows("a", 3, -1, True, "3")] == ["a", "3", "-1", "True", "3"]


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"a\.jsonl:1: there is no column 'lable'.*'label'"):
        find_labels(rows("a"), "lable", "streams.task")


def test_an_unseen_label_is_an_error_that_names_the_nearest(tokenizer):
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: label 'godo' was not seen.*'bad', 'fair', 'good'.*did you mean 'good'"
    ):
        make(tokenizer).fields(rows("godo")[0])
    with pytest.raises(DataError, match="not seen") as raised:
        make(tokenizer).fields(rows("xyz")[0])
    assert "did you mean" not in str(raised.value)


def test_fields_are_texts_and_the_number_of_the_label(tokenizer):
    objective = make(tokenizer, pair="second")
    row = Row({"text": "one", "second": "two", "label": "good", "other": 1}, "a.jsonl:1")
    kept = objective.fields(row)
    assert (dict(kept.texts), dict(kept.values)) == ({TOKENS: "one", "pair": "two"}, {"label": 2})
    assert dict(objective.unlabelled_fields(Row({"text": "one", "second": "two"}, "a:1")).texts) == dict(kept.texts)
    numbers = make(tokenizer, labels=("0", "1", "10"))
    assert [numbers.fields(row).values["label"] for row in rows(0, "10", 1)] == [0, 2, 1]


@pytest.mark.parametrize(
    "options",
    [{"labels": ("a",)}, {"labels": ("a", "a")}, {"dropout": 1.0}, {"label_smoothing": -0.1}, {"label_smoothing": 1.0}],
)
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField):
        SequenceClassificationConfig(**options)


def test_everything_that_the_records_depend_on_is_in_their_options(tokenizer):
    options = [{}, {"text": "a"}, {"pair": "b"}, {"label": "c"}, {"labels": ("good", "fair", "bad")}]
    assert len({make(tokenizer, **one).record_options() for one in options}) == len(options)


# --- Rows ---


def row_of(objective, tokens, pair=None, label=1):
    record = {TOKENS: np.asarray(tokens, np.int32), "label": label}
    if pair is not None:
        record["pair"] = np.asarray(pair, np.int32)
    return objective.make_row([record], [example_generator(0, 0, 0)])


@pytest.mark.parametrize("size", [1, 5, LENGTH - 2])
def test_a_single_text(tokenizer, size):
    tokens = list(range(10, 10 + size))
    row = row_of(make(tokenizer), tokens)
    rest = LENGTH - size - 2
    whole = [tokenizer.start_id, *tokens, tokenizer.separator_id]
    assert row["token_ids"].tolist() == whole + [tokenizer.pad_id] * rest
    assert row["segment_ids"].tolist() == [1] * (size + 2) + [0] * rest
    assert row["token_types"].tolist() == [0] * LENGTH
    assert row["label"] == 1 and all(array.dtype == np.int32 for array in row.values())


@pytest.mark.parametrize(("first", "second"), [(1, 1), (5, 3), (5, 0), (10, 11), (20, 1)])
def test_a_pair_that_fits(tokenizer, first, second):
    a, b = list(range(10, 10 + first)), list(range(50, 50 + second))
    row = row_of(make(tokenizer, pair="second"), a, b)
    whole = [tokenizer.start_id, *a, tokenizer.separator_id, *b, tokenizer.separator_id]
    rest = LENGTH - len(whole)
    assert row["token_ids"].tolist() == whole + [tokenizer.pad_id] * rest
    assert row["segment_ids"].tolist() == [1] * len(whole) + [0] * rest
    assert row["token_types"].tolist() == [0] * (first + 2) + [1] * (second + 1) + [0] * rest


@pytest.mark.parametrize("length", [23, 24])
def test_the_longer_text_of_a_pair_is_cut_first(tokenizer, length):
    config = SequenceClassificationConfig(labels=("a", "b"), pair="second")
    objective, room = SequenceClassification(config, setting_of(tokenizer, length, "task")), length - 3
    for first in range(1, 40):
        for second in range(40):
            row = row_of(objective, range(10, 10 + first), range(60, 60 + second))
            a = [i for i in row["token_ids"].tolist() if 10 <= i < 60]
            b = [i for i in row["token_ids"].tolist() if i >= 60]
            assert a == list(range(10, 10 + len(a))) and b == list(range(60, 60 + len(b)))  # the ends are cut
            assert len(a) + len(b) == min(room, first + second)
            # Only a text that is at least as long as the other in the end has lost tokens.
            assert len(a) == first or len(a) >= len(b) - 1
            assert len(b) == second or len(b) >= len(a) - 1
            assert row["token_types"].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * (
                length - len(a) - len(b) - 3
            )


# --- The loss ---


@pytest.fixture(scope="module")
def objective(tokenizer):
    return make(tokenizer, pair="second", label_smoothing=0.2, dropout=0.0)


@pytest.fixture(scope="module")
def batch(objective):
    rng = np.random.default_rng(0)
    made = [
        row_of(
            objective,
            rng.integers(10, 300, rng.integers(1, 12)),
            rng.integers(10, 300, rng.integers(0, 9)),
            rng.integers(3),
        )
        for _ in range(8)
    ]
    return {**{name: np.stack([row[name] for row in made]) for name in made[0]}, "row_weight": np.ones(8, np.float32)}


@pytest.fixture(scope="module")
def computed(make_model, objective):
    """From objective and batch to StreamLoss and outputs, with weights large enough that rows differ."""
    model, parameters = make_model(objective, layers=1)
    parameters = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, parameters)
    apply = bind(model, parameters)
    compute = jax.jit(lambda of, batch: (of.loss(apply, batch), of.outputs(apply, batch)), static_argnums=0)
    return lambda of, batch: jax.device_get(compute(of, batch))


@pytest.fixture(scope="module")
def loss_of(computed):
    return lambda of, batch: computed(of, batch)[0]


@pytest.fixture(scope="module")
def logits_of(computed, objective):
    return lambda batch: computed(objective, batch)[1]["logits"]


def by_hand(logits_of, batch, smoothing: float):
    logits = logits_of(batch).astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = np.eye(3)[batch["label"]] * (1 - smoothing) + smoothing / 3
    return -(target * logp).sum(-1), logits.argmax(-1) == batch["label"]


def test_the_loss_is_the_smoothed_cross_entropy_of_the_labels(loss_of, logits_of, objective, batch):
    part = loss_of(objective, batch)
    losses, hits = by_hand(logits_of, batch, 0.2)
    assert np.ptp(losses) > 0.1
    assert part.loss == pytest.approx(losses.sum(), rel=1e-5)
    assert (part.weight, part.ratios["accuracy"].sum, part.tokens) == (8, hits.sum(), (batch["segment_ids"] > 0).sum())


def test_labels_are_not_smoothed_in_evaluation(loss_of, logits_of, objective, batch):
    part = loss_of(objective.for_evaluation(), batch)
    losses, _ = by_hand(logits_of, batch, 0.0)
    assert part.loss == pytest.approx(losses.sum(), rel=1e-5)
    assert abs(part.loss - loss_of(objective, batch).loss) > 1e-3
    assert objective.for_evaluation().head_name == "task"


def test_rows_without_weight_count_nothing(loss_of, logits_of, objective, batch):
    keep = np.arange(8) % 2 == 0
    part = loss_of(objective, {**batch, "row_weight": keep.astype(np.float32)})
    losses, hits = by_hand(logits_of, batch, 0.2)
    assert part.loss == pytest.approx(losses[keep].sum(), rel=1e-5)
    assert (part.weight, part.ratios["accuracy"].sum) == (4, hits[keep].sum())


def test_padding_and_the_rest_of_the_batch_change_no_logits(logits_of, batch):
    logits = logits_of(batch)
    padding = batch["segment_ids"] == 0
    noisy = {**batch, "token_ids": np.where(padding, 99, batch["token_ids"])}
    assert np.array_equal(logits_of(noisy), logits)
    others = {name: np.roll(array, 3, axis=0) for name, array in batch.items()}
    assert np.roll(logits_of(others), -3, axis=0) == pytest.approx(logits, abs=1e-5)


def test_the_second_text_is_marked_by_its_token_type(logits_of, batch):
    unmarked = {**batch, "token_types": np.zeros_like(batch["token_types"])}
    assert np.abs(logits_of(unmarked) - logits_of(batch)).max() > 1e-3


def test_a_fresh_model_knows_nothing(make_model, objective, batch):
    model, parameters = make_model(objective, layers=1)
    plain = objective.for_evaluation()
    part = jax.device_get(jax.jit(lambda batch: plain.loss(bind(model, parameters), batch))(batch))
    assert part.loss / part.weight == pytest.approx(math.log(3), rel=0.02)


def test_outputs_hold_the_labels_of_their_rows(computed, objective, batch):
    outputs = computed(objective, batch)[1]
    assert np.array_equal(outputs["label"], batch["label"])
    assert (outputs["logits"].shape, outputs["logits"].dtype) == ((8, 3), np.float32)
