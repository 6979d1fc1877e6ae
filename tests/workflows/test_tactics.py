"""Tactics of fine-tuning by recipe: runs that stopped go on bit by bit, and what is used is what was trained."""

from __future__ import annotations

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from support.small_recipe import RECIPE

from jaxft.cli.main import run
from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, with_rows_of_shares
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.trained_run import open_run
from jaxft.workflows.train.train import train

STEPS = 6
TACTICS = {
    "held": (
        "finetuning={ewc: {strength: 1.0, stream: replay, examples: 8}, recadam: {}, mixout: 0.1, "
        "start_divergence: {task: 0.1, replay: 0.1}, averaging: {decay: 0.9}}",
        "streams.replay.schedule={shape: linear, stop: 0.8}",
        "training.balance={method: project, cosine: true}",
    ),
    "quantized": (
        "finetuning={lora: {rank: 2, dora: true, quantize: nf4, dropout: 0.1}, averaging: {kind: uniform, start: 0.3}}",
        "streams.replay.every=2",
    ),
    "adapters": ("finetuning={adapters: {size: 4}, layer_decay: 0.9, unfreeze_every: 1}",),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, shared_data) -> pathlib.Path:
    """A run to start from."""
    directory = tmp_path_factory.mktemp("pretrained")
    (directory / "small.yaml").write_text(f"{RECIPE}data: {{directory: {shared_data}}}\n")
    train(directory / "small.yaml", ("training.steps=4", "training.evaluate_every=4"), directory / "run", quiet=True)
    return directory


def tuned(pretrained: pathlib.Path, directory: pathlib.Path, tactics: tuple[str, ...]) -> dict:
    text = (pretrained / "small.yaml").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("model:", "tokenizer:")))
    path = pretrained / "tuned.yaml"
    path.write_text(f"{text}\nmodel: {{pretrained: {pretrained / 'run'}}}\n")
    words = (f"training.steps={STEPS}", "training.evaluate_every=3", "checkpoint.every=3", *tactics)
    return train(path, words, directory, quiet=True)


@pytest.fixture(scope="module", params=TACTICS)
def finished(request, pretrained, tmp_path_factory) -> tuple[str, pathlib.Path, dict]:
    """Name of a set of tactics, the run under them, and its summary."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    return request.param, directory, tuned(pretrained, directory, TACTICS[request.param])


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_bit_by_bit(pretrained, finished, tmp_path):
    """Catches a part of the state that a checkpoint leaves out: averages, importances, the start, counts of steps."""
    name, finished_directory, whole = finished
    shutil.copytree(finished_directory, tmp_path / "halved")
    shutil.rmtree(tmp_path / "halved" / "checkpoints" / str(STEPS))
    (tmp_path / "halved" / "summary.json").unlink()
    halved = tuned(pretrained, tmp_path / "halved", TACTICS[name])
    assert halved["evaluation"] == whole["evaluation"] and halved["steps"] == STEPS
    one, other, start = open_run(finished_directory), open_run(tmp_path / "halved"), open_run(pretrained / "run")
    pairs = zip(jax.tree.leaves(one.parameters), jax.tree.leaves(other.parameters), strict=True)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    # And something was learned at all.
    moved = one.parameters["head_task"]["classifier"]["kernel"] - start.parameters["head_task"]["classifier"]["kernel"]
    assert np.abs(moved).max() > 1e-5
    found = make_evaluators(one.assembly)["reviews"](one.parameters)
    assert found["loss"] == pytest.approx(whole["evaluation"]["reviews"]["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("finished", ["adapters"], indirect=True)
def test_adapters_are_evaluated_and_predicted_with_but_not_exported(finished, tmp_path, capsys):
    _, directory, summary = finished
    assert run(["evaluate", str(directory), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]["reviews"]
    assert found["loss"] == pytest.approx(summary["evaluation"]["reviews"]["loss"], rel=1e-6)
    (tmp_path / "rows.jsonl").write_text('{"text": "a fine film"}\n')
    assert run(["predict", str(directory), str(tmp_path / "rows.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("0", "1", "neg", "pos", "negative", "positive")
    assert run(["export", str(directory), str(tmp_path / "out")]) == 4
    assert "has bottleneck adapters" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_checking_a_recipe_tokenizes_nothing(pretrained, tmp_path):
    words = ("streams.replay.share=0.2", "streams.replay.batch_size=null", f"data.cache={tmp_path / 'cache'}")
    assembly = assemble(*load_recipe(pretrained / "small.yaml", words))
    assert assembly.recipe.streams["replay"].share == 0.2 and not (tmp_path / "cache" / "stores").exists()
    with_rows_of_shares(assembly)
    assert (tmp_path / "cache" / "stores").exists()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5])
def test_a_share_is_that_of_the_tokens(pretrained, share):
    """Few tokens take turns of several steps, and go on from one to the next."""
    words = (f"streams.replay.share={share}", "streams.replay.batch_size=null")
    assembly = with_rows_of_shares(assemble(*load_recipe(pretrained / "small.yaml", words)))
    replay, batches = assembly.recipe.streams["replay"], make_batches(assembly)
    assert (replay.every > 1) == (share == 0.02) and replay.share is None

    def tokens(name: str, every: int) -> float:
        mean = np.mean([(batches[name].batch(step)["segment_ids"] > 0).sum() for step in range(20)])
        return mean / every

    own, task = tokens("replay", replay.every), tokens("task", 1)
    # Up to the rounding of rows and of steps, and the special tokens, which are no text.
    assert own / (own + task) == pytest.approx(share, rel=0.2)
