"""Preferences from rows to a decoder: rewards are measured against the weights that the run began with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxft.cli.main import run

SIZES = "embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1, max_length: 32, initializer_range: 0.1"
GOOD, BAD = ["good", "fine", "kind"], ["bad", "dull", "cruel"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A decoder that has seen a few words, and answers of which the kind ones are preferred."""
    directory = tmp_path_factory.mktemp("preferences")
    rng = np.random.default_rng(0)
    for name, count in (("train", 96), ("dev", 24)):
        rows = [
            {
                "prompt": f"the {rng.choice(['film', 'plot'])} is",
                "chosen": rng.choice(GOOD),
                "rejected": rng.choice(BAD),
            }
            for _ in range(count)
        ]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"the {rng.choice(['film', 'plot'])} is {rng.choice(GOOD + BAD)}" for _ in range(400)]
    (directory / "text.txt").write_text("\n\n".join(words) + "\n")
    (directory / "start.yaml").write_text(f"""
name: start
model: {{preset: decoder-tiny, {SIZES}}}
tokenizer: {{train: {{vocab_size: 28}}}}
streams:
  text: {{source: {{text: text.txt}}, objective: {{kind: causal_lm}}, batch_size: 8}}
training: {{steps: 20}}
""")
    assert run(["train", str(directory / "start.yaml"), "--run-dir", str(directory / "start"), "--quiet"]) == 0
    return directory


def recipe(data: Path, model: str, **options: str) -> Path:
    path = data / "preference.yaml"
    objective = "".join(f", {name}: {value}" for name, value in options.items())
    path.write_text(f"""
name: preference
model: {model}
streams:
  task:
    source: {{jsonl: train.jsonl}}
    objective: {{kind: preference, template: "{{prompt}} ", beta: 0.5{objective}}}
    batch_size: 16
  replay: {{source: {{text: text.txt}}, objective: {{kind: causal_lm}}, batch_size: 4}}
evaluation:
  task: {{stream: task, source: {{jsonl: dev.jsonl}}}}
optimizer: {{learning_rate: 3e-3}}
training: {{steps: 30, evaluate_every: 30}}
checkpoint: {{every: 10}}
""")
    return path


@pytest.fixture(scope="module")
def tuned(data) -> Path:
    path = recipe(data, f"{{pretrained: {data}/start}}")
    assert run(["train", str(path), "--run-dir", str(data / "tuned"), "--quiet"]) == 0
    return data / "tuned"


def test_what_is_preferred_gains(tuned):
    rows = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    before, after = (row for row in rows if row["kind"] == "evaluation")
    # At the start the model is its own reference.
    assert before["task.loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert (before["task.margin"], before["task.accuracy"]) == (0, 0)
    assert after["task.accuracy"] > 0.9 and after["task.margin"] > 1


def test_evaluate_measures_against_the_same_start(tuned, data, capsys, tmp_path):
    capsys.readouterr()
    assert run(["evaluate", str(tuned), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]["task"]
    assert found == pytest.approx(json.loads((tuned / "summary.json").read_text())["evaluation"]["task"], rel=1e-5)
    # Where the start is gone it says so, and nothing else.
    (data / "start").rename(tmp_path / "moved")
    try:
        assert run(["evaluate", str(tuned)]) == 4
        assert "is measured against the weights that it began with" in capsys.readouterr().err
    finally:
        (tmp_path / "moved").rename(data / "start")


def test_a_run_that_goes_on_keeps_its_start(tuned, data, tmp_path):
    """A copy that lost its last checkpoints trains them again, to the same numbers, without the pretrained weights."""
    again = tmp_path / "again"
    shutil.copytree(tuned, again)
    (again / "summary.json").unlink()
    for step in (20, 30):
        shutil.rmtree(again / "checkpoints" / str(step), ignore_errors=True)
    path = recipe(data, f"{{pretrained: {data}/start}}")
    assert run(["train", str(path), "--run-dir", str(again), "--quiet"]) == 0
    one, other = (json.loads((place / "summary.json").read_text())["evaluation"]["task"] for place in (tuned, again))
    assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        (
            f"{{preset: decoder-tiny, {SIZES}}}\ntokenizer: {{train: {{vocab_size: 28}}}}",
            2,
            "compares with a pretrained",
        ),
        ("{preset: encoder-tiny}\ntokenizer: {train: {vocab_size: 28}}", 2, "needs a model of family decoder"),
    ],
)
def test_a_model_without_a_start_is_refused(data, tmp_path, capsys, model, status, message):
    assert run(["train", str(recipe(data, model)), "--run-dir", str(tmp_path / "run")]) == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
