"""Soups and WiSE-FT from the command line: means of weights that load, export and go on training."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest
from support.small_recipe import RECIPE

import jaxft
from jaxft.cli.main import run

pytestmark = pytest.mark.slow

WORDS = ("training.steps=2", "training.evaluate_every=2", "checkpoint.every=1", "--quiet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_data) -> pathlib.Path:
    """A start without a head for the task, and two runs from it: `start`, `one`, `two`."""
    directory = tmp_path_factory.mktemp("average")
    recipe = f"{RECIPE}data: {{directory: {shared_data}}}\n"
    (directory / "small.yaml").write_text(recipe)
    assert run(["train", str(directory / "small.yaml"), *WORDS, "--run-dir", str(directory / "start")]) == 0
    lines = [line for line in recipe.splitlines() if not line.startswith(("model:", "tokenizer:"))]
    text = "\n".join(lines).replace("  task:\n", "  other:\n").replace("stream: task", "stream: other")
    (directory / "tuned.yaml").write_text(f"{text}\nmodel: {{pretrained: {directory / 'start'}}}\n")
    for seed, name in enumerate(("one", "two")):
        # Models of a soup were trained in different ways.
        ways = [f"training.seed={seed}", f"model.dropout={0.1 * seed}", f"streams.other.objective.dropout={0.2 * seed}"]
        words = [*WORDS, *ways, "--run-dir", str(directory / name)]
        assert run(["train", str(directory / "tuned.yaml"), *words]) == 0
    return directory


def parameters(path: pathlib.Path):
    return jaxft.load_pretrained(path).params


def assert_between(found, before, after, share: float) -> None:
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, (1 - share) * b + share * c, rtol=1e-5, atol=1e-7),
        found,
        before,
        after,
    )


def test_a_soup_is_the_weighted_mean_and_is_used_as_a_model(runs, tmp_path, capsys):
    one, two = str(runs / "one"), str(runs / "two")
    assert run(["average", str(tmp_path / "soup"), one, two, "--weights", "1", "3"]) == 0
    assert "the mean of 2 models" in capsys.readouterr().out
    found = parameters(tmp_path / "soup")
    assert_between(found, parameters(runs / "one"), parameters(runs / "two"), 0.75)
    assert not np.allclose(
        found["head_other"]["classifier"]["kernel"], parameters(runs / "one")["head_other"]["classifier"]["kernel"]
    )
    assert run(["export", str(tmp_path / "soup"), str(tmp_path / "exported")]) == 0
    words = [
        f"model={{pretrained: {tmp_path / 'soup'}}}",
        *WORDS,
        "training.steps=1",
        "--run-dir",
        str(tmp_path / "on"),
    ]
    assert run(["train", str(runs / "tuned.yaml"), *words]) == 0


def test_a_step_of_a_run_can_be_named(runs, tmp_path):
    assert run(["average", str(tmp_path / "soup"), f"{runs / 'one'}:1", str(runs / "one")]) == 0
    first = parameters_of_step(runs / "one", 1)
    assert_between(parameters(tmp_path / "soup"), first, parameters(runs / "one"), 0.5)


def parameters_of_step(path: pathlib.Path, step: int):
    return jaxft.open_run(path, step=step).parameters


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_towards_the_start_heads_that_had_none_stay_as_tuned(runs, tmp_path, capsys, share):
    assert run(["average", str(tmp_path / "wise"), str(runs / "one"), "--share", str(share)]) == 0
    assert "head_other had no start and stays as tuned" in capsys.readouterr().out
    found, start, tuned = (parameters(path) for path in (tmp_path / "wise", runs / "start", runs / "one"))
    for part in ("trunk", "head_masked_lm"):
        assert_between(found[part], start[part], tuned[part], share)
    jax.tree.map(np.testing.assert_array_equal, found["head_other"], tuned["head_other"])
    if share == 0.0:
        jax.tree.map(np.testing.assert_array_equal, found["trunk"], start["trunk"])


def test_what_makes_no_sense_is_refused(runs, tmp_path, capsys):
    one, two, start, out = (str(runs / name) for name in ("one", "two", "start", "out"))
    cases = {
        (out, one, one): (2, "named twice"),
        (out, one, two, "--weights", "1"): (2, "one for each of the 2 models"),
        (out, one, two, "--weights", "1", "-1"): (2, "must not be negative"),
        (out, one, "--share", "1.5"): (2, "must lie in [0, 1]"),
        (out, one, "--start", start): (2, "say by --share"),
        (out, start, "--share", "0.5"): (2, "does not say what it began with"),
        (out, one, start): (4, "have other heads"),
        (one, two): (4, "holds a model already"),
        (out, str(tmp_path / "none")): (4, "does not exist"),
        (out, f"{one}:7"): (4, "no checkpoint of step 7"),
    }
    for words, (status, said) in cases.items():
        assert run(["average", *words]) == status, words
        assert said in capsys.readouterr().err, words
    assert not pathlib.Path(out).exists()
