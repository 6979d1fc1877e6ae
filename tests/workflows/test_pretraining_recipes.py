"""The recipes of pretraining: each resolves as it is written, and runs on a CPU with the overrides that it names."""

from __future__ import annotations

import json
import math
import pathlib
import shlex

import pytest

from jaxft.cli.main import run
from jaxft.huggingface.expressing import expressing
from jaxft.models.config import ModelConfig
from jaxft.recipe.library import load_recipe, path_of
from jaxft.recipe.presets import PRESETS

RECIPES = sorted(path.stem for path in path_of("pretrain/bert-base").parent.glob("*.yaml"))


def tiny_overrides(name: str) -> list[str]:
    """The overrides that the recipe's own comment gives."""
    lines = path_of(f"pretrain/{name}").read_text(encoding="utf-8").splitlines()
    return shlex.split(" ".join(line.removeprefix("# tiny:") for line in lines if line.startswith("# tiny:")))


TINY = [name for name in RECIPES if tiny_overrides(name)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_and_short(name):
    recipe, _ = load_recipe(f"pretrain/{name}")
    assert recipe.name == name
    assert len(path_of(f"pretrain/{name}").read_text(encoding="utf-8").splitlines()) <= 40


def test_most_recipes_have_a_tiny_form():
    # The others begin from weights of the hub or take minutes anyway.
    assert set(RECIPES) - set(TINY) == {"decoder-tiny", "encoder-decoder-tiny", "encoder-small", "llm2vec", "simcse"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_recipe_learns_on_a_cpu(name, tmp_path, capsys):
    directory = tmp_path / "run"
    words = ["train", f"pretrain/{name}", "--run-dir", str(directory), "--json", "--quiet"]
    assert run([*words, *tiny_overrides(name)]) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first = next(row for row in rows if row["kind"] == "evaluation")
    for evaluation, metrics in summary["evaluation"].items():
        assert math.isfinite(metrics["loss"])
        assert metrics["loss"] < first[f"{evaluation}.loss"] - 0.3
    # What was trained can leave.
    assert run(["export", str(directory), str(tmp_path / "exported"), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert (pathlib.Path(exported["output"]) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_an_architecture_of_hugging_face(name):
    preset = PRESETS[name]
    model = ModelConfig(vocab_size=1 if preset["family"] == "vision" else 512, **preset)
    assert list(expressing(model))
