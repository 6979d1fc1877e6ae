"""The verbs on real input, as a user runs them."""

from __future__ import annotations

import json
import pathlib

import pytest

from jaxft.cli.main import run
from jaxft.data.tokenizers import load_tokenizer

PRETRAIN = """
name: pretrain
model: {preset: encoder-tiny, embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1, max_length: 32}
tokenizer: {train: {vocab_size: 500}}
streams:
  text:
    source: [{jsonl: lm/state_union_train.jsonl, limit: 4}, {text: lm/wikitext2_valid.txt, limit: 50}]
    objective: {kind: masked_lm, length: 32}
    batch_size: 8
evaluation:
  retained: {stream: text, source: {jsonl: lm/state_union_heldout.jsonl, limit: 1}, batch_size: 64}
optimizer: {learning_rate: 3e-3}
training: {steps: 30}
"""

TASK = """
name: task
model: {pretrained: pretrain}
streams:
  task:
    source: {jsonl: classification/sentence_polarity_train.jsonl, limit: 600}
    objective: {kind: sequence_classification, length: 32}
    batch_size: 16
evaluation:
  reviews: {stream: task, source: {jsonl: classification/sentence_polarity_dev.jsonl, limit: 101}}
  retained: {objective: {kind: masked_lm}, source: {jsonl: lm/state_union_heldout.jsonl, limit: 1}, batch_size: 64}
optimizer: {learning_rate: 3e-3}
training: {epochs: 1}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_data) -> pathlib.Path:
    """A directory with a pretrained and a fine-tuned run."""
    directory = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, text in (("pretrain", PRETRAIN), ("task", TASK)):
            pathlib.Path(f"{name}.yaml").write_text(f"{text}data: {{directory: {shared_data}}}\n")
            assert run(["train", f"{name}.yaml", "--run-dir", name, "--quiet"]) == 0
    return directory


@pytest.fixture
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)
    return runs


def test_a_run_leaves_the_documented_directory(here):
    there = {path.name for path in pathlib.Path("task").iterdir()}
    expected = {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "plots",
        "checkpoints",
        "tokenizer",
    }
    assert expected <= there
    report = pathlib.Path("task/report.html").read_text()
    assert "data:image/png;base64," in report and "http" not in report.replace("http-equiv", "")
    assert {path.name for path in pathlib.Path("task/plots").iterdir()} >= {
        "loss.png",
        "evaluation.png",
        "confusion-reviews.png",
    }


def test_pretraining_learns_and_its_head_measures_retention(here):
    rows = [json.loads(line) for line in pathlib.Path("pretrain/metrics.jsonl").read_text().splitlines()]
    evaluated = [row["retained.loss"] for row in rows if row["kind"] == "evaluation"]
    assert evaluated[-1] < evaluated[0] - 0.5
    task = [json.loads(line) for line in pathlib.Path("task/metrics.jsonl").read_text().splitlines()]
    # Before its first step the fine-tuned run is the pretrained model, head and all: the same loss on the same masks.
    assert task[0]["step"] == 0
    assert task[0]["retained.loss"] == pytest.approx(evaluated[-1], rel=1e-6)


def test_evaluate_repeats_what_training_reported_and_takes_other_data(here, capsys, shared_data):
    summary = json.loads(pathlib.Path("task/summary.json").read_text())
    assert run(["evaluate", "task", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == summary["used_step"]
    found, reported = result["evaluation"]["reviews"], summary["evaluation"]["reviews"]
    assert found.pop("confusion_matrix") == (matrix := reported.pop("confusion_matrix"))
    assert found == pytest.approx(reported, rel=1e-6)
    assert sum(map(sum, matrix)) == 101
    other = "evaluation.reviews.source={jsonl: classification/sentence_polarity_test.jsonl, limit: 50}"
    assert run(["evaluate", "task", other, "--json"]) == 0
    matrix = json.loads(capsys.readouterr().out)["evaluation"]["reviews"]["confusion_matrix"]
    assert sum(map(sum, matrix)) == 50


def test_predict_agrees_with_evaluate(here, capsys, shared_data):
    rows = (shared_data / "classification/sentence_polarity_dev.jsonl").read_text().splitlines()[:101]
    pathlib.Path("in.jsonl").write_text("\n".join(rows) + "\n")
    assert run(["predict", "task", "in.jsonl", "--output", "out.jsonl"]) == 0
    predicted = [json.loads(line) for line in pathlib.Path("out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in predicted] == [json.loads(row)["text"] for row in rows]
    for row in predicted:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    accuracy = sum(row["label"] == row["given_label"] for row in predicted) / len(predicted)
    summary = json.loads(pathlib.Path("task/summary.json").read_text())
    assert accuracy == pytest.approx(summary["evaluation"]["reviews"]["accuracy"])


def test_a_dry_run_tells_sizes_and_writes_nothing(here, capsys):
    before = sorted(map(str, here.rglob("*")))
    assert run(["train", "task.yaml", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sorted(map(str, here.rglob("*"))) == before
    assert plan["batches"]["task"]["token_ids"] == [16, 32] and plan["tokens_per_step"] == 16 * 32
    assert plan["parameters"] == json.loads(pathlib.Path("task/summary.json").read_text())["parameters"]
    assert plan["steps"] == round(600 / 16)
    again = pathlib.Path("resolved.yaml")
    again.write_text(plan["recipe"])
    assert run(["train", "resolved.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == plan["recipe"]


def test_a_tokenizer_is_trained_on_files_of_every_kind(tmp_path, capsys, shared_data):
    (tmp_path / "t.tsv").write_text("text\tlabel\nsome words here\tx\nother words there\ty\n")
    files = [
        str(tmp_path / "t.tsv"),
        str(shared_data / "lm/tang_poems_zh.jsonl"),
        str(shared_data / "lm/wikitext2_valid.txt"),
    ]
    out = tmp_path / "tokenizer"
    assert (
        run(
            [
                "tokenizer",
                "train",
                *files,
                "--output",
                str(out),
                "--vocab-size",
                "6000",
                "--model-type",
                "bpe",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 6000
    tokenizer = load_tokenizer(out)
    (ids,) = tokenizer.encode(["the history of the city"])
    assert tokenizer.decode(ids) == "the history of the city"


def test_recipes_are_listed_shown_and_copied(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["recipes", "ls", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert {"quickstart", "finetune/packages", "bidirectional/packages"} <= names.keys()
    assert run(["recipes", "copy", "bidirectional/packages"]) == 0
    capsys.readouterr()
    assert run(["recipes", "show", "bidirectional/packages"]) == 0
    assert capsys.readouterr().out == pathlib.Path("packages.yaml").read_text()


def test_doctor_knows_the_device(capsys):
    assert run(["doctor", "--json"]) == 0
    assert "cpu" in json.loads(capsys.readouterr().out)["devices"]


def test_the_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as exit_:
        run(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("quickstart", "train", "evaluate", "predict", "tokenizer", "recipes", "doctor"))
