"""A comparison: the runs that it plans, what they share, what it says of them, and that it goes on where it stopped."""

from __future__ import annotations

import itertools
import json
import pathlib
import time

import pytest
from processes import start
from support.small_recipe import RECIPE

from jaxft.cli.main import run
from jaxft.errors import RecipeError
from jaxft.recipe.library import load_recipe
from jaxft.workflows.compare.trials import check_comparison, recipe_of, trials

COMPARE = """
compare:
  task: reviews.accuracy
  retained: retained.loss
  arms:
    one-way: {replay: 0}
    replayed: {replay: 0.3}
    held: {replay: 0, set: [finetuning.l2_sp=1e6]}
    between: {of: one-way, interpolate: [0.0, 1.0]}
  learning_rates: [1e-3]
  seeds: [0, 1]
  budgets: [task, compute]
"""


def write(path: pathlib.Path, pretrained: str, shared_data: pathlib.Path, compare: str = COMPARE) -> pathlib.Path:
    text = RECIPE.replace("name: small", "name: small-compare")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("model:", "tokenizer:")))
    text = text.replace("steps: 60, log_every: 5, evaluate_every: 20", "steps: 6, log_every: 3, evaluate_every: 6")
    path.write_text(f"{text}\nmodel: {{pretrained: {pretrained}}}\ndata: {{directory: {shared_data}}}\n{compare}")
    return path


@pytest.fixture
def comparison(tmp_path, shared_data):
    return load_recipe(write(tmp_path / "c.yaml", "runs/nothing", shared_data))


def test_arms_differ_in_what_they_say_alone(comparison):
    recipe, document = comparison
    planned = list(trials(recipe))
    # Without replay, equal tokens and equal compute are the same.
    names = {(trial.arm, trial.budget) for trial in planned}
    assert names == {
        ("one-way", "task"),
        ("replayed", "task"),
        ("replayed", "compute"),
        ("held", "task"),
        ("between 0", "task"),
        ("between 1", "task"),
    }
    assert len(planned) == 12 and len({trial.directory(pathlib.Path()) for trial in planned}) == 12
    made = {trial.arm: recipe_of(trial.trained, document)[0] for trial in planned if trial.budget == "task"}
    assert all(own.compare is None for own in made.values())
    assert made["one-way"].streams["replay"].weight == 0 and made["between 0"] == made["one-way"]
    replay = made["replayed"].streams["replay"]
    assert (replay.share, replay.weight, replay.batch_size) == (0.3, 1.0, None)
    assert made["held"].finetuning.l2_sp == 1e6 and made["one-way"].finetuning.l2_sp == 0
    assert len({own.streams["task"] for own in made.values()}) == 1
    assert len({own.training for own in made.values()}) == 1
    compute = next(recipe_of(trial, document)[0] for trial in planned if trial.budget == "compute")
    assert compute.training.steps == round(6 * 0.7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("task: reviews.accuracy|task: review.accuracy", "compare.task: 'review.accuracy' is not EVALUATION.METRIC"),
        ("{of: one-way, interpolate|{of: one-wey, interpolate", "'one-wey' is not one of the arms that train"),
        ("replay: 0.3|replay: 1.3", "must be a share"),
        ("one-way: {replay: 0}|one-way: {of: held, interpolate: [1.0]}", "it must train"),
        ("seeds: [0, 1]|seeds: [1, 1]", "names one twice"),
        ("finetuning.l2_sp=1e6|finetuning.l2sp=1e6", "l2_sp"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, shared_data, change, said):
    before, after = change.split("|")
    with pytest.raises(RecipeError) as error:
        recipe, document = load_recipe(
            write(tmp_path / "c.yaml", "runs/nothing", shared_data, COMPARE.replace(before, after))
        )
        check_comparison(recipe, document)
        for trial in trials(recipe):
            recipe_of(trial.trained, document)
    assert said in str(error.value)


def test_a_recipe_without_a_start_has_nothing_to_forget(tmp_path, shared_data):
    path = tmp_path / "c.yaml"
    path.write_text(f"{RECIPE}data: {{directory: {shared_data}}}\n{COMPARE}")
    with pytest.raises(RecipeError, match="pretrained"):
        check_comparison(*load_recipe(path))


@pytest.mark.slow
def test_a_comparison_from_the_command_line(tmp_path, recipe, shared_data, capsys):
    """One that is killed goes on; hosts share it; ends of an interpolation are the start and the tuned model."""
    assert run(["train", str(recipe), "--run-dir", "start", "--quiet", "training.steps=10"]) == 0
    path = str(write(tmp_path / "c.yaml", "start", shared_data, COMPARE.replace("[task, compute]", "[task]")))
    first = start("compare", path, "--quiet", "--run-dir", "out", "--shard", "0/2")
    results = pathlib.Path("out/arms/one-way/task/rate-0.001/seed-0/result.json")
    while first.poll() is None and not results.is_file():
        time.sleep(0.2)
    first.kill()
    said = first.communicate()[1]
    assert results.is_file(), said
    written = results.stat().st_mtime_ns
    assert run(["compare", path, "--quiet", "--run-dir", "out", "--shard", "0/2"]) == 0
    assert "of 10 runs are done" in capsys.readouterr().out
    assert run(["compare", path, "--quiet", "--run-dir", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert results.stat().st_mtime_ns == written
    assert found["done"] == found["trials"] == 10 and (pathlib.Path("out") / "report.html").is_file()
    arms = {(arm["arm"], arm["budget"]): arm for arm in found["arms"]}
    assert arms["one-way", "task"]["replay"] == 0 == arms["one-way", "task"]["forgetting"]["mean"] * 0
    assert arms["replayed", "task"]["replay"] == pytest.approx(0.3, abs=0.05)
    assert arms["held", "task"]["forgetting"]["mean"] == pytest.approx(0, abs=1e-3)
    read = {
        (arm, seed): json.loads((results.parents[4] / arm / f"task/rate-0.001/seed-{seed}/result.json").read_text())
        for arm, seed in itertools.product(("one-way", "between 0", "between 1"), (0, 1))
    }
    for seed in (0, 1):
        whole, none = read["between 1", seed], read["between 0", seed]
        assert whole["evaluation"]["retained"]["loss"] == pytest.approx(
            read["one-way", seed]["evaluation"]["retained"]["loss"], rel=1e-6
        )
        assert none["evaluation"]["retained"]["loss"] == pytest.approx(none["before"]["retained.loss"], rel=1e-6)
        assert none["divergence"] == pytest.approx(0, abs=1e-6) and whole["divergence"] > 1e-5
