"""What leaves a run, by whatever way, is used as the run is: labels, kinds, pooling, ends."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

import jaxft
from jaxft.workflows.weights.average import average_models
from jaxft.workflows.weights.export import export_model
from jaxft.workflows.weights.location import locate

TEXTS = ["a good film", "the plot is bad and dull", "fine", "the film is a good film"]
ENCODER = (
    "{preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 32, num_layers: 1, max_length: 48, dropout: 0.0}"
)
DECODER = ENCODER.replace("encoder-tiny", "decoder-tiny")
TASKS = {
    "regression": (ENCODER, "{kind: regression, target: value}"),
    "several labels": (ENCODER, "{kind: multi_label_classification, label: tags}"),
    "classes": (ENCODER, "{kind: sequence_classification}"),
    "vectors": (ENCODER, "{kind: contrastive, pair: pair, pooling: first}"),
    "texts": (DECODER, "{kind: instruction, prompt: text, response: pair}"),
}


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory) -> tuple[str, pathlib.Path]:
    """The name of a task, and a run by it of a model that was made here."""
    directory = tmp_path_factory.mktemp("run")
    rows = [
        {"text": text, "pair": text[:6], "label": f"long{len(text) % 2}", "value": float(len(text))}
        | {"tags": ["x", "y"][: len(text) % 3]}
        for text in TEXTS * 4
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, objective = TASKS[request.param]
    (directory / "recipe.yaml").write_text(f"""
name: leaving
model: {model}
tokenizer: {{byte_bpe: {{vocab_size: 280}}}}
streams:
  task: {{source: {{jsonl: rows.jsonl}}, objective: {objective}, batch_size: 4}}
optimizer: {{learning_rate: 1e-2}}
training: {{steps: 4}}
""")
    jaxft.train(directory / "recipe.yaml", run_directory=directory / "run", quiet=True)
    return request.param, directory / "run"


def use(name: str, path: pathlib.Path):
    """What a model says of texts, to be compared."""
    if name == "vectors":
        return np.asarray(jaxft.embed(path, TEXTS)).round(4).tolist()
    if name == "texts":
        return [(one.token_ids.tolist(), one.finished_by) for one in jaxft.generate(path, TEXTS, max_new_tokens=6)]
    return [(one.label, {k: round(v, 4) for k, v in one.scores.items()}) for one in jaxft.classify(path, TEXTS)]


def test_an_average_and_all_exports_are_used_as_the_run_is(run, tmp_path):
    name, path = run
    average_models([str(path)], tmp_path / "average")
    same = jax.tree.map(np.array_equal, *(jaxft.load_pretrained(one).params for one in (path, tmp_path / "average")))
    assert all(jax.tree.leaves(same))
    found = use(name, path)
    assert use(name, tmp_path / "average") == found
    for source in (path, tmp_path / "average"):
        target = tmp_path / f"exported {source.name}"
        export_model(source, target)
        assert use(name, target) == found, source

    both = [sorted(file.name for file in (tmp_path / f"exported {one}").iterdir()) for one in ("run", "average")]
    assert both[0] == both[1]
    for file in ("config.json", "generation_config.json", "modules.json", "tokenizer.json"):
        one, other = (tmp_path / f"exported {source}" / file for source in ("run", "average"))
        assert one.exists() == other.exists() and (not one.exists() or one.read_bytes() == other.read_bytes()), file


def test_a_run_of_an_earlier_version_is_used_by_its_recipe(run):
    now, earlier = locate(run[1]), locate(run[1])
    vars(earlier)["stored"] = dataclasses.replace(now.stored, use=None)
    assert now.use is not None and earlier.use == now.use
