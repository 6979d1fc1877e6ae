"""Datasets of other libraries, from their own files into a trained run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_sources import prepare_tfds

from jaxft.cli.main import run

RECIPE = """
name: {name}
model: {{preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 16, num_layers: 1, max_length: 16}}
tokenizer: {{wordpiece: {{vocab_size: 100}}}}
streams:
  task:
    source: {{{source}, split: train, columns: {{text: sentence, label: label}}, filter: {{language: en}}}}
    objective: {{kind: sequence_classification, length: 16}}
    batch_size: 4
evaluation:
  held: {{stream: task, source: {{{source}, split: test, columns: {{text: sentence, label: label}}}}}}
optimizer: {{learning_rate: 2e-2}}
training: {{steps: 60}}
data: {{cache: cache}}
"""


def rows_of(count: int) -> list[dict]:
    """Films that are good or bad, which a classifier of words can tell."""
    words = ("good", "bad")
    return [
        {"sentence": f"the {words[i % 2]} film number {i}", "label": i % 2, "language": "en" if i % 5 else "xx"}
        for i in range(count)
    ]


@pytest.fixture(params=[pytest.param("tfds", marks=pytest.mark.slow), "hf"])
def source(request, tmp_path, monkeypatch) -> str:
    """How a recipe names the data set."""
    monkeypatch.chdir(tmp_path)
    if request.param == "tfds":
        library = pytest.importorskip("tensorflow_datasets")
        features = {"sentence": library.features.Text(), "label": np.int64, "language": library.features.Text()}
        splits = {"train": rows_of(60), "test": rows_of(10)}
        prepare_tfds(tmp_path / "tfds", splits, library.features.FeaturesDict(features), "films")
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
        return "tfds: films"
    datasets = pytest.importorskip("datasets")
    parts = {"train": datasets.Dataset.from_list(rows_of(60)), "test": datasets.Dataset.from_list(rows_of(10))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "films"))
    return "hf: films"


def test_a_data_set_trains(source, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(name="films", source=source))
    assert run(["train", "recipe.yaml", "--quiet", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["evaluation"]["held"]["accuracy"] == 1.0
    assert run(["data", "stats", "recipe.yaml", "--json"]) == 0
    train, held = json.loads(capsys.readouterr().out)["stores"]
    assert (train["records"], held["records"]) == (48, 10)
