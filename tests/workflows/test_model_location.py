"""What lies at a path decides which model is meant, never what its directories are called; and it is looked at once."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
from support.tiny_models import bert

import jaxft
from jaxft.data.filling import FillConfig
from jaxft.errors import CheckpointError
from jaxft.serving.limits import Limits
from jaxft.workflows.assembly.batches import store_sources
from jaxft.workflows.assembly.filled_stores import filled_source
from jaxft.workflows.assembly.trained_run import open_run
from jaxft.workflows.inference.serve import open_served
from jaxft.workflows.weights.average import average_models
from jaxft.workflows.weights.export import export_model
from jaxft.workflows.weights.import_model import import_model
from jaxft.workflows.weights.location import locate
from jaxft.workflows.weights.opened_model import OpenedModel, open_model

# Names that once made a model be taken for a run, or a run for one of its checkpoints.
NAMES = ("checkpoints/bert", "checkpoints/12", "12", "run/checkpoints/3")
STEPS = 4
RECIPE = """
name: films
model: {{pretrained: {model}}}
streams:
  task: {{source: {{jsonl: films.jsonl}}, objective: {{kind: sequence_classification, length: 16}}, batch_size: 4}}
  replay: {{source: {{jsonl: films.jsonl}}, objective: {{kind: masked_lm, length: 16}}, batch_size: 4}}
optimizer: {{learning_rate: 1e-2}}
training: {{steps: {steps}, seed: 1}}
checkpoint: {{every: 2, keep: 4}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A classifier in Hugging Face layout, with settings of generation and names of labels of its own."""
    directory = tmp_path_factory.mktemp("plain") / "bert"
    bert(directory, "BertForSequenceClassification", id2label={0: "good", 1: "bad"}, eos_token_id=3)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 9, "bad_words_ids": [[5], [6, 7]]}))
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two heads, with checkpoints of steps 2 and 4."""
    directory = tmp_path_factory.mktemp("trained")
    bert(directory / "start")
    rows = [{"text": f"the {word} film is {word}", "label": word} for word in ("good", "bad")] * 8
    (directory / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "recipe.yaml").write_text(RECIPE.format(model=directory / "start", steps=STEPS))
    jaxft.train(directory / "recipe.yaml", run_directory=directory / "run", quiet=True)
    return directory / "run"


def known(opened: OpenedModel) -> dict:
    """All that is known of how a model is used."""
    return {
        name: getattr(opened, name) for name in ("special_tokens", "text_layout", "classifier", "pooling")
    } | {"labels": opened.loaded.form.config["id2label"]}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_the_same_whatever_its_directory_is_called(name, model, tmp_path):
    shutil.copytree(model, tmp_path / name)
    plain, renamed = open_model(model), open_model(tmp_path / name)

    assert known(renamed) == known(plain)
    assert plain.special_tokens.end == (9,) and plain.special_tokens.suppressed == (5,)
    assert plain.classifier.labels == ("good", "bad")
    assert np.array_equal(jaxft.embed(renamed, ["good film"]), jaxft.embed(plain, ["good film"]))
    average_models([str(tmp_path / name)], tmp_path / "average")
    assert open_model(tmp_path / "average").classifier.labels == ("good", "bad")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_the_same_whatever_its_directory_is_called(name, run, tmp_path):
    shutil.copytree(run, tmp_path / name)
    plain, renamed = open_model(run), open_model(tmp_path / name)

    assert known(renamed) == known(plain) and plain.classifier.labels == ("bad", "good")
    assert open_run(tmp_path / name).step == STEPS
    assert export_model(tmp_path / name, tmp_path / "exported")["class"] == "BertForSequenceClassification"
    # The start of an average is what the recipe of the run says.
    found = average_models([str(tmp_path / name)], tmp_path / "average", share=0.5)
    assert found["as_tuned"] == ["head_task"]


@pytest.mark.parametrize("name", NAMES)
def test_what_fills_in_words_is_found_whatever_its_directory_is_called(name, run, tmp_path):
    shutil.copytree(run.parent / "start", tmp_path / name / "model")
    shutil.copytree(run.parent / "start", tmp_path / "plain")
    import_model(str(tmp_path / "plain"), tmp_path / "imported" / name)
    source = store_sources(open_run(run).assembly)[0]

    filled = {
        path: filled_source(source, "text", FillConfig(model=str(tmp_path / path))).directory
        for path in ("plain", f"{name}/model", f"imported/{name}")
    }
    assert filled["plain"] == filled[f"{name}/model"] != filled[f"imported/{name}"]


@pytest.mark.parametrize("form", ["{run}/checkpoints/{step}", "{run}:{step}"])
def test_a_checkpoint_is_named_by_its_directory_or_its_number(form, run):
    first, last = (jaxft.load_pretrained(form.format(run=run, step=step)) for step in (2, STEPS))
    same = jax.tree.map(np.array_equal, last.params, jaxft.load_pretrained(run).params)

    assert all(jax.tree.leaves(same))
    assert not np.array_equal(*(loaded.params["head_task"]["classifier"]["kernel"] for loaded in (first, last)))
    assert open_run(form.format(run=run, step=2)).step == 2
    assert jaxft.classify(form.format(run=run, step=2), "good film")[0].label in ("good", "bad")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing/checkpoints/8", "it does not exist"), ("nothing:8", "it does not exist"),
        (".", "neither model.json nor config.json"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_by_name(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for take in (jaxft.load_pretrained, jaxft.embed, lambda source: export_model(source, "out")):
        with pytest.raises(CheckpointError, match=message):
            take(path) if take is not jaxft.embed else take(path, "text")
    with pytest.raises(CheckpointError, match="is not the directory of a run"):
        open_run(path)


def test_a_checkpoint_that_is_not_there_is_named(run):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3; there are 2, 4"):
        jaxft.load_pretrained(run / "checkpoints" / "3")


def test_a_model_of_hugging_face_is_not_exported_again(model, tmp_path):
    with pytest.raises(CheckpointError, match="is a model in Hugging Face layout, not a run"):
        export_model(model, tmp_path / "out")


_opened: collections.Counter[str] | None = None


def test_weights_in_a_directory_of_their_own_are_part_of_a_model(model, tmp_path):
    """A sentence encoder's `Dense`: what is made with the model is made again when that changes alone."""
    copy = shutil.copytree(model, tmp_path / "model")
    assert locate(copy).fingerprint() == locate(model).fingerprint()
    (copy / "2_Dense").mkdir()
    found = {locate(copy).fingerprint()}
    for content in (b"one", b"other"):
        (copy / "2_Dense" / "model.safetensors").write_bytes(content)
        found.add(locate(copy).fingerprint())
    assert len(found) == 3


def _note(event: str, arguments: tuple) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        _opened[os.fspath(arguments[0])] += 1


sys.addaudithook(_note)


@contextlib.contextmanager
def openings():
    """How often each file is opened meanwhile, by its path."""
    global _opened
    _opened = collections.Counter()
    try:
        yield _opened
    finally:
        _opened = None


def test_no_file_of_a_run_or_a_model_is_read_twice(run, model, tmp_path):
    trips = {
        "export": lambda: export_model(run, tmp_path / "exported"),
        "average": lambda: average_models([str(run)], tmp_path / "average"),
        "read": lambda: jaxft.classify(run, "good film"),
        "serve": lambda: open_served(run, None, None, "float32", Limits()),
        "predict": lambda: open_run(run),
        "serve a model": lambda: open_served(model, None, None, "float32", Limits()),
    }
    # The tokenizer's files, and with them config.json, are read by transformers too.
    ours = ("recipe.yaml", "model.json", "best.json", "generation_config.json")
    for name, trip in trips.items():
        with openings() as opened:
            trip()
        seen = {path: times for path, times in opened.items() if path.endswith(ours)}
        assert seen and set(seen.values()) == {1}, (name, seen)


def test_a_hub_is_asked_once_for_a_model(model, monkeypatch, tmp_path):
    asked = []

    def fetched(name, allow_patterns):
        asked.append(name)
        return str(model)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    served = open_served("someone/bert", None, None, "float32", Limits())
    assert asked == ["someone/bert"] and served.name == "someone/bert"
    assert locate("someone/bert").directory == model
