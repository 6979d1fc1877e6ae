"""Stop anywhere, start again: the run ends as if nothing had happened."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from processes import start
from support.small_recipe import RECIPE

from jaxft.cli.main import run
from jaxft.workflows.assembly.trained_run import open_run


def losses(directory: pathlib.Path, kind: str) -> dict[int, dict[str, float]]:
    """Loss-like numbers by step of a kind of row."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    return {
        row["step"]: {name: value for name, value in row.items() if name.endswith((".loss", ".accuracy"))}
        for row in rows
        if row["kind"] == kind
    }


def assert_same_run(first: pathlib.Path, second: pathlib.Path) -> None:
    one, two = open_run(first), open_run(second)
    jax.tree.map(np.testing.assert_array_equal, one.parameters, two.parameters)
    assert losses(first, "evaluation") == losses(second, "evaluation")
    # Rows of training sum up the steps since the row before, which an interruption cuts; the last ones agree again.
    last = max(losses(first, "train"))
    assert losses(first, "train")[last] == losses(second, "train")[last]


def kill_at(directory: pathlib.Path, recipe: pathlib.Path, step: int, how: int):
    """Starts the run and sends a signal as soon as a row of `step` or later is written; returns the ended process."""
    process = start("train", str(recipe), "--run-dir", str(directory))
    metrics = directory / "metrics.jsonl"
    for _ in range(6000):
        rows = metrics.read_text().splitlines() if metrics.exists() else []
        if any(json.loads(row)["step"] >= step for row in rows if row.endswith("}")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate_result = process.communicate(timeout=120)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shared_data) -> pathlib.Path:
    """The run of the recipe from its beginning to its end."""
    directory = tmp_path_factory.mktemp("undisturbed")
    (directory / "small.yaml").write_text(f"{RECIPE}data: {{directory: {shared_data}}}\n")
    assert run(["train", str(directory / "small.yaml"), "--run-dir", str(directory / "run"), "--quiet"]) == 0
    return directory / "run"


@pytest.mark.slow
def test_sigkill_at_three_moments_changes_nothing(recipe, undisturbed, tmp_path):
    for step in (1, 25, 45):
        assert kill_at(tmp_path / "killed", recipe, step, signal.SIGKILL).returncode == -signal.SIGKILL
    assert run(["train", str(recipe), "--run-dir", "killed", "--quiet"]) == 0
    assert_same_run(undisturbed, tmp_path / "killed")


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_continue_and_continues(recipe, undisturbed, tmp_path):
    process = kill_at(tmp_path / "stopped", recipe, 15, signal.SIGINT)
    _, err = process.communicate_result
    assert process.returncode == 1
    assert "stopped by Ctrl-C after step" in err and "The same command continues" in err and "Traceback" not in err
    steps = [int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir() if path.name.isdigit()]
    assert max(steps) >= 15
    assert run(["train", str(recipe), "--run-dir", "stopped", "--quiet"]) == 0
    assert_same_run(undisturbed, tmp_path / "stopped")


def test_a_finished_run_says_so_and_stays(recipe, tmp_path, capsys):
    words = ["train", str(recipe), "training.steps=4", "training.evaluate_every=4", "--run-dir", "run", "--quiet"]
    assert run(words) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(words) == 0
    assert "was already finished; nothing was done" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    del before[tmp_path / "run" / ".lock"], after[tmp_path / "run" / ".lock"]
    assert after == before


@pytest.mark.slow
def test_the_newest_damaged_checkpoint_is_passed_over(recipe, tmp_path, capsys):
    """A flipped byte in the newest checkpoint: the run continues from the one before it, to the same end."""
    words = ["train", str(recipe), "training.steps=12", "training.evaluate_every=6", "checkpoint.every=4", "--quiet"]
    assert run([*words, "--run-dir", "whole"]) == 0
    directory = tmp_path / "damaged"
    shutil.copytree(tmp_path / "whole", directory)
    (directory / "summary.json").unlink()
    data = max((directory / "checkpoints/12/training").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 16
    data.write_bytes(content)
    capsys.readouterr()
    assert run([*words, "--run-dir", "damaged"]) == 0
    assert "checkpoints/12 is left out" in capsys.readouterr().err
    assert_same_run(tmp_path / "whole", directory)


@pytest.mark.slow
def test_early_stopping_and_the_best_checkpoint_survive_a_resume(recipe, tmp_path):
    """With a learning rate of almost 0 nothing improves: both runs stop at the same step, one of them resumed."""
    changes = [
        "optimizer.learning_rate=1e-12",
        "training.evaluate_every=4",
        "checkpoint.best=reviews.accuracy",
        "training.steps=40",
        "training.early_stopping={metric: reviews.accuracy, patience: 3}",
        "checkpoint.every=4",
        "--quiet",
    ]
    assert run(["train", str(recipe), *changes, "--run-dir", "whole"]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["stopped_early"] and summary["steps"] == 12 and summary["used_step"] == 0
    # As after a kill behind step 8: the later checkpoints and the summary never came to be.
    (tmp_path / "again" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "12")
    assert run(["train", str(recipe), *changes, "--run-dir", "again"]) == 0
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert {**again, "seconds": 0, "run_dir": ""} == {**summary, "seconds": 0, "run_dir": ""}
