"""Several processes are one run: the same losses as one, stopped and lost together, resumed by any number of them."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess

import numpy as np
import pytest
from several import ended, slurm_tools, started, wait_for_step
from support.compilation import xla_flags
from support.small_recipe import RECIPE

from jaxft.cli.main import run
from jaxft.workflows.launch import LaunchOptions, plan_launch

pytestmark = pytest.mark.slow


def evaluations(directory: pathlib.Path) -> dict[int, dict[str, float]]:
    """Metrics of the evaluations by step; a step stands there once."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["kind"] == "evaluation"]
    assert len({row["step"] for row in own}) == len(own)
    return {row["step"]: {name: value for name, value in row.items() if "." in name} for row in own}


@pytest.fixture(scope="module")
def module_recipe(tmp_path_factory, shared_data) -> pathlib.Path:
    """The small recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    before, _, rest = RECIPE.partition("  retained:")
    # One evaluation, as each is compiled in every process; its last batch is padded.
    before = before.replace("limit: 100", "limit: 20")
    path.write_text(f"{before}{rest[rest.index('optimizer:') :]}data: {{directory: {shared_data}}}\n")
    return path


# What compiles soonest.
SMALL = (
    "training.steps=40", "model.num_layers=1", "model.embed_dim=16", "model.mlp_dim=16", "model.dropout=0",
    "evaluation.reviews.metrics=[loss, accuracy]",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, module_recipe):
    """The same run by one process, and by two of two devices, then four of one, then one; what the processes said.

    The two are started by the batch script that `jaxft launch slurm` writes.
    """
    directory = tmp_path_factory.mktemp("processes")
    words = [str(module_recipe), *SMALL, "checkpoint.every=5"]
    assert run(["train", *words, "--run-dir", str(directory / "one"), "--quiet"]) == 0
    several = directory / "runs" / "small"
    stopped = stopped_under_slurm([*words, "mesh.data=2", "mesh.fsdp=2"], directory, several)
    saved = max(int(path.name) for path in (several / "checkpoints").iterdir() if path.name.isdigit())
    words = ["train", *words, "--run-dir", str(several)]
    with started(4, *words) as processes:
        wait_for_step(several, saved + 10, processes)
        processes[2].kill()
        lost = ended(processes)
    assert run([*words, "--quiet"]) == 0
    return directory / "one", several, stopped, saved, lost


def stopped_under_slurm(words: list[str], directory: pathlib.Path, run_directory: pathlib.Path):
    """Starts the rendered script, sends SIGTERM to the second process; status, outputs, and what SLURM was asked."""
    options = LaunchOptions(topology="h100-16", storage=str(directory), output=str(directory / "launch"))
    where, planned = plan_launch("slurm", words[0], words[1:], options)
    where.mkdir()
    for name, text in planned.files.items():
        (where / name).write_text(text)
    path = slurm_tools(directory / "tools")
    environment = {**os.environ, "PATH": path, "XLA_FLAGS": xla_flags(2), "SLURM_JOB_ID": "1"}
    with subprocess.Popen(["bash", str(where / "train.sbatch")], env=environment, cwd=directory) as batch:
        wait_for_step(run_directory, 10, [batch])
        os.kill(int((directory / "pids").read_text().split()[1]), signal.SIGTERM)
        batch.wait(30)
    told = [((directory / f"out.{index}").read_text(), (directory / f"err.{index}").read_text()) for index in range(2)]
    return batch.returncode, told, (directory / "scontrol.calls").read_text()


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs):
    _, _, (status, told, asked), saved, _ = runs
    assert status == 1 and asked.startswith("requeue ")
    assert 10 <= saved < 30
    for out, err in told:
        assert out == "" and "Traceback" not in err
        assert f"stopped by SIGTERM after step {saved} of 40; the state is saved" in err
    assert "step 10/40" in told[0][1] and "step 10/40" not in told[1][1], "only process 0 tells of its progress"


def test_a_killed_process_brings_all_down_and_is_named(runs):
    _, _, _, saved, lost = runs
    assert lost[2][0] == -signal.SIGKILL
    for index in (0, 1, 3):
        status, _, err = lost[index]
        assert status != 0 and "process 2 of 4" in err and "ended without a word" in err
    assert f"continuing after step {saved};" in lost[0][2]


def test_the_losses_are_those_of_one_process(runs):
    one, several, *_ = runs
    expected, found = evaluations(one), evaluations(several)
    assert list(found) == list(expected) == [0, 20, 40]
    for step, metrics in expected.items():
        for name, value in metrics.items():
            np.testing.assert_allclose(found[step][name], value, rtol=2e-4, atol=1e-5, err_msg=f"{step} {name}")


def test_mismatched_recipes_are_refused_by_what_differs(module_recipe, tmp_path):
    words = ("train", str(module_recipe), "--run-dir", str(tmp_path / "run"))
    with started(2, *words, of_last=("optimizer.learning_rate=2e-3",)) as processes:
        for status, _, err in ended(processes, 120):
            assert status == 2 and "process 1 of 2" in err
            assert "optimizer.learning_rate: 0.001 there, 0.002 here" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()
