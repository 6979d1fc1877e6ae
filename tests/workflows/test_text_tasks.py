"""Tasks on text from their data to Hugging Face: what is trained, predicted and exported is one model."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from support.tiny_models import bert

from jaxft import load_pretrained
from jaxft.cli.main import run
from jaxft.data.tokenizers import load_tokenizer

GOOD, BAD, FILMS = ["good", "fine"], ["bad", "dull"], ["film", "plot"]
LENGTH = 16


def row(rng: np.random.Generator) -> dict:
    """An example of every task: a film's word says all."""
    positive = bool(rng.integers(2))
    film, word = rng.choice(FILMS), rng.choice(GOOD if positive else BAD)
    other = rng.choice(BAD if positive else GOOD)
    choices = [f"is {word}", f"is {other}"] if rng.integers(2) else [f"is {other}", f"is {word}"]
    made = {
        "text": f"the {film} is {word}",
        "sentiment": "yes" if positive else "no",
        "stars": 40.0 + 10 * positive,
        "length": 3.0 * (film == "plot"),
        "labels": ["about " + film] * (film == "film") + ["positive"] * positive,
        "near": f"a {rng.choice(FILMS)} is {rng.choice(GOOD if positive else BAD)}",
        "far": f"the {film} is {other}",
        "other": f"the {film} is {other if rng.integers(2) else word}",
        "context": f"a {film} {'a' if positive else 'the'}",
        "choices": choices,
        "label": choices.index(f"is {word}"),
    }
    return {**made, "alike": 4.0 * (word in made["other"])}


TASKS = {
    "regression": "target: [stars, length], standardize: true",
    "multi_label_classification": "positive_weights: balanced, r_drop: 0.1",
    "multiple_choice": "text: context, most: 3",
    "sentence_similarity": "text: text, pair: other, score: alike",
    "contrastive": "pair: near, negative: far, loss: triplet, pooling: last",
    "sequence_classification": (
        "label: sentiment, class_weights: balanced, focal_gamma: 2, r_drop: 0.1, label_smoothing: 0.1"
    ),
}


def slow_but(kept: str, kinds) -> list:
    """Parameters of tests, each a kind or a tuple that begins with one; all kinds but one are of the whole suite."""
    rows = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    return [pytest.param(*row, marks=() if row[0] == kept else pytest.mark.slow) for row in rows]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small BERT and rows to learn from."""
    directory = tmp_path_factory.mktemp("data")
    bert(directory / "bert", initializer_range=0.2)  # so large that its words differ from the start
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("dev", 20)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row(rng)) + "\n" for _ in range(count)))
    return directory


@pytest.fixture(scope="module")
def trained(data):
    """A function from a kind of task to the directory of its run, trained once."""
    done: dict[str, Path] = {}

    def train(kind: str) -> Path:
        if kind not in done:
            recipe = data / f"{kind}.yaml"
            recipe.write_text(f"""
name: {kind}
model: {{pretrained: {data}/bert, dropout: 0.0, attention_dropout: 0.0}}
streams:
  task:
    source: {{jsonl: train.jsonl}}
    objective: {{kind: {kind}, length: {LENGTH}, {TASKS[kind]}}}
    batch_size: 16
evaluation:
  task: {{stream: task, source: {{jsonl: dev.jsonl}}}}
optimizer: {{learning_rate: 5e-3}}
training: {{steps: 60, evaluate_every: 60, gradient_clip: {{norm: 0}}}}
""")
            assert run(["train", str(recipe), "--run-dir", str(data / kind), "--quiet"]) == 0
            done[kind] = data / kind
        return done[kind]

    return train


def evaluated(directory: Path) -> list[dict]:
    """The evaluations of a run, before the first step and after the last."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "evaluation"]


def predicted(directory: Path, data: Path, capsys) -> list[dict]:
    """The held-out rows with what the run says of them."""
    capsys.readouterr()
    assert run(["predict", str(directory), str(data / "dev.jsonl")]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def exported(directory: Path, tmp_path: Path):
    """The model that transformers makes of the exported run."""
    assert run(["export", str(directory), str(tmp_path / "exported")]) == 0
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "exported")
    return model.eval(), load_tokenizer(tmp_path / "exported")


def inputs_of(tokenizer, texts: list[str], pairs: list[str] | None = None) -> dict[str, torch.Tensor]:
    """What torch reads, laid out by hand."""
    rows, types = [], []
    for first, second in zip(texts, pairs or [None] * len(texts), strict=True):
        one = [tokenizer.start_id, *tokenizer.encode([first])[0], tokenizer.separator_id]
        two = [] if second is None else [*tokenizer.encode([second])[0], tokenizer.separator_id]
        rows.append([*one, *two] + [tokenizer.pad_id] * (LENGTH - len(one) - len(two)))
        types.append([0] * len(one) + [1] * len(two) + [0] * (LENGTH - len(one) - len(two)))
    ids = torch.tensor(rows)
    return {"input_ids": ids, "token_type_ids": torch.tensor(types), "attention_mask": (ids != tokenizer.pad_id).long()}


@pytest.mark.parametrize("kind", slow_but("regression", TASKS))
def test_a_task_is_learned(trained, kind):
    before, after = evaluated(trained(kind))
    assert all(math.isfinite(value) for value in after.values() if isinstance(value, float))
    assert after["task.loss"] < 0.5 * before["task.loss"]


def test_a_regression_speaks_in_its_own_units_wherever_it_is_used(trained, data, tmp_path, capsys):
    """The run standardizes its targets; predictions and exported weights do not show it."""
    directory = trained("regression")
    rows = predicted(directory, data, capsys)
    said = np.array([[row["stars"], row["length"]] for row in rows])
    truth = np.array([[row["given_stars"], row["given_length"]] for row in rows])
    assert np.abs(said - truth).mean() < 2 and np.ptp(truth, 0).tolist() == [10, 3]
    model, tokenizer = exported(directory, tmp_path)
    assert model.config.problem_type == "regression" and model.config.id2label == {0: "stars", 1: "length"}
    with torch.no_grad():
        logits = model(**inputs_of(tokenizer, [row["text"] for row in rows])).logits.numpy()
    np.testing.assert_allclose(logits, said, atol=2e-4)


@pytest.mark.slow
def test_predicted_labels_and_exported_logits_of_many_labels_agree(trained, data, tmp_path, capsys):
    directory = trained("multi_label_classification")
    rows = predicted(directory, data, capsys)
    right = [set(row["labels"]) == set(row["given_labels"]) for row in rows]
    assert np.mean(right) > 0.9
    model, tokenizer = exported(directory, tmp_path)
    assert model.config.problem_type == "multi_label_classification"
    inputs = inputs_of(tokenizer, [row["text"] for row in rows])
    names = model.config.id2label
    truth = torch.tensor([[float(names[i] in row["given_labels"]) for i in range(2)] for row in rows])
    with torch.no_grad():
        output = model(**inputs, labels=truth)
    for row, probabilities in zip(rows, output.logits.sigmoid().tolist(), strict=True):
        assert [row["probabilities"][names[i]] for i in range(2)] == pytest.approx(probabilities, abs=2e-5)
    # The loss of an evaluation is the plain one, as torch computes it.
    assert evaluated(directory)[-1]["task.loss"] == pytest.approx(output.loss.item(), rel=1e-4)


@pytest.mark.slow
def test_choices_compete_as_in_transformers(trained, data, tmp_path, capsys):
    directory = trained("multiple_choice")
    rows = predicted(directory, data, capsys)
    assert np.mean([row["label"] == row["given_label"] for row in rows]) > 0.9
    assert all(len(row["probabilities"]) == 2 for row in rows)
    model, tokenizer = exported(directory, tmp_path)
    assert type(model).__name__ == "BertForMultipleChoice"
    pairs = [inputs_of(tokenizer, [row["context"]] * 2, row["choices"]) for row in rows]
    inputs = {name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]}
    with torch.no_grad():
        output = model(**inputs, labels=torch.tensor([row["given_label"] for row in rows]))
    found = np.array([row["probabilities"] for row in rows])
    np.testing.assert_allclose(output.logits.softmax(-1).numpy(), found, atol=2e-5)
    assert evaluated(directory)[-1]["task.loss"] == pytest.approx(output.loss.item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pooling"), [("sentence_similarity", "mean"), ("contrastive", "lasttoken")])
def test_vectors_of_sentences_leave_with_their_pooling(trained, data, tmp_path, capsys, kind, pooling):
    directory = trained(kind)
    rows = predicted(directory, data, capsys)
    model, tokenizer = exported(directory, tmp_path)
    assert type(model).__name__ == "BertModel"
    written = json.loads((tmp_path / "exported" / "1_Pooling" / "config.json").read_text())
    modes = [mode for mode, used in written.items() if used is True]
    assert modes == [{"mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}[pooling]]
    modules = json.loads((tmp_path / "exported" / "modules.json").read_text())
    assert [one["type"].rpartition(".")[2] for one in modules] == ["Transformer", "Pooling", "Normalize"]

    def vectors(texts: list[str]) -> torch.Tensor:
        inputs = inputs_of(tokenizer, texts)
        with torch.no_grad():
            hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"]
        rows = torch.arange(len(texts))
        last = hidden[rows, mask.sum(1) - 1]
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = torch.nn.functional.normalize(mean if pooling == "mean" else last)
        # What jaxft reads of its own export says the same.
        own = load_pretrained(tmp_path / "exported").embed(inputs["input_ids"].numpy(), mask.numpy())
        np.testing.assert_allclose(own, found, atol=1e-5)
        return found

    first = vectors([row["text"] for row in rows])
    if kind == "contrastive":
        np.testing.assert_allclose(first, [row["vector"] for row in rows], atol=1e-5)
    else:
        cosines = (first * vectors([row["other"] for row in rows])).sum(-1)
        np.testing.assert_allclose(cosines, [row["similarity"] for row in rows], atol=1e-5)


WRONG = {
    "regression": [({"stars": "many"}, "'stars' must hold a finite number, found 'many'"),
                   ({"stars": float("nan")}, "must hold a finite number|NaN")],
    "multi_label_classification": [({"labels": "positive"}, "must hold a list of labels, found 'positive'"),
                                   ({"labels": ["new"]}, "label 'new' was not seen in training"),
                                   ({"labels": ["positive", "positive"]}, "holds a label twice")],
    "multiple_choice": [({"choices": ["one"]}, "at least two choices"), ({"choices": []}, "at least two choices"),
                        ({"choices": ["a", "b", "a", "b"]}, "holds 4 choices; training has at most 3"),
                        ({"choices": ["a", 3]}, r"'choices\[1\]' must be text; found int 3"),
                        ({"label": 2}, "number of a choice, 0 to 1, or its text; found 2"),
                        ({"label": "c"}, "number of a choice, 0 to 1, or its text; found 'c'"),
                        ({"label": True}, "found True")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    slow_but("regression", [(kind, *one) for kind, ones in WRONG.items() for one in ones]),
)
def test_a_bad_row_is_named_with_what_is_wrong(trained, data, tmp_path, capsys, kind, change, message):
    good = [json.loads(line) for line in (data / "dev.jsonl").read_text().splitlines()[:2]]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (good[0], {**good[1], **change})))
    assert run(["evaluate", str(trained(kind)), f"evaluation.task.source={{jsonl: {path}}}"]) == 3
    error = capsys.readouterr().err
    assert "bad.jsonl:2" in error and "Traceback" not in error
    assert re.search(message, error), error
