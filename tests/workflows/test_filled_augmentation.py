"""Filled copies through recipes: prepared once, the same in every start, and never in evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxft
from jaxft.errors import RecipeError
from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, store_sources
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.prepare.prepare import prepare

pytestmark = pytest.mark.slow

MODEL = "model: {preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 32, num_layers: 1, max_length: 32}"
EXPECTING = f"""
name: expecting
{MODEL}
tokenizer: {{train: {{vocab_size: 300}}}}
streams:
  text:
    source: {{jsonl: lm/state_union_train.jsonl, limit: 1}}
    objective: {{kind: masked_lm, length: 32}}
    batch_size: 4
training: {{steps: 2}}
"""
TASK = f"""
name: task
{MODEL}
tokenizer: {{train: {{vocab_size: 400}}}}
streams:
  task:
    source: {{jsonl: classification/sentence_polarity_train.jsonl, limit: 60}}
    objective: {{kind: sequence_classification, length: 32, mixup: 0.2}}
    augmentation: {{fill: {{model: runs/expecting, rate: 0.3, variants: 2}}}}
    batch_size: 6
evaluation:
  reviews: {{stream: task, source: {{jsonl: classification/sentence_polarity_dev.jsonl, limit: 20}}}}
training: {{steps: 4, evaluate_every: 4}}
"""


@pytest.fixture(scope="module")
def directory(shared_data, tmp_path_factory):
    """Recipes and a masked language model that has learned little."""
    directory = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, text in (("expecting", EXPECTING), ("task", TASK)):
            (directory / f"{name}.yaml").write_text(f"{text}data: {{directory: {shared_data}}}\n", encoding="utf-8")
        jaxft.train("expecting.yaml", quiet=True)
        yield directory


def opened(*overrides: str):
    assembly = assemble(*load_recipe("task.yaml", overrides))
    return assembly, make_batches(assembly)["task"]


def test_a_store_of_copies_is_prepared_once(directory):
    first, again = prepare("task.yaml", workers=0), prepare("task.yaml", workers=2)
    assert [store["source"] for store in first] == ["streams.task", "streams.task.filled", "evaluation.reviews"]
    assert [store["records"] for store in first] == [60, 120, 20]
    assert {store["status"] for store in again} == {"there already"}
    assert [store["directory"] for store in first] == [store["directory"] for store in again]
    for change in ("rate=0.2", "variants=3"):
        changed, _ = opened(f"streams.task.augmentation.fill.{change}")
        others = [store.directory for store in store_sources(changed)]
        assert [str(other) for other in others][0::2] == [store["directory"] for store in first][0::2]
        assert str(others[1]) != first[1]["directory"]


def test_epochs_take_turns_and_another_start_gives_the_same(directory):
    _, batches = opened()
    _, plain = opened("streams.task.augmentation=null")
    ids = [batches.batch(step)["token_ids"] for step in range(30)]
    assert all((ids[step] == opened()[1].batch(step)["token_ids"]).all() for step in (3, 25))
    originals = np.concatenate([plain.batch(step)["token_ids"] for step in range(30)])
    same = (np.concatenate(ids) == originals).all(1)
    # In three epochs each example was itself once; a copy may happen to be cut before its first other word.
    assert 60 <= same.sum() < 100
    labels = [np.concatenate([one.batch(step)["label"] for step in range(30)]) for one in (batches, plain)]
    assert (labels[0] == labels[1]).all()


def test_a_run_trains_on_them_and_evaluation_is_untouched(directory):
    assembly, _ = opened()
    evaluator, plain = (
        make_evaluators(assembly)["reviews"],
        make_evaluators(opened("streams.task.augmentation=null")[0]),
    )
    for number in range(2):
        one, other = (e.batches.padded_batch(number) for e in (evaluator, plain["reviews"]))
        assert all((one[name] == other[name]).all() for name in one)
    assert not evaluator.objective._config.mixup
    summary = jaxft.train("task.yaml", quiet=True)
    assert summary["steps"] == 4
    rows = [json.loads(line) for line in (directory / "runs/task/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if row["kind"] == "train")


def test_what_is_no_masked_language_model_is_refused(directory):
    jaxft.train("task.yaml", ["streams.task.augmentation=null"], "runs/plain", quiet=True)
    with pytest.raises(RecipeError, match="runs/plain is no masked language model"):
        prepare("task.yaml", ["streams.task.augmentation.fill.model=runs/plain"])
