"""A run goes on, whatever happened to it, and damage to what it reads is noticed."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.processes import environment

import jaxft
from jaxft.checkpoint import checkpoints
from jaxft.cli.main import run
from jaxft.errors import CheckpointError, JaxftError
from jaxft.workflows.assembly.trained_run import open_run
from jaxft.workflows.runs.run_directory import RunDirectory

RECIPE = """
name: tiny
model: {preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 16, num_layers: 1, max_length: 16}
tokenizer: {train: {vocab_size: 29}}
streams:
  task:
    source: {jsonl: train.jsonl}
    objective: {kind: sequence_classification, length: 16}
    batch_size: 4
evaluation:
  held: {stream: task, source: {jsonl: train.jsonl}}
optimizer: {learning_rate: 1e-2}
training: {steps: 12, log_every: 2, evaluate_every: 4, seed: 1}
checkpoint: {every: 4, keep: 3, best: held.loss}
data: {cache: cache}
"""
KILLED_AT = str(pathlib.Path(__file__).with_name("killed_at.py"))


def write_recipe(directory: pathlib.Path) -> str:
    words = [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("poor", "neg")]
    rows = [{"text": f"a {word} film of the year {i}", "label": label} for i in range(4) for word, label in words]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "tiny.yaml").write_text(RECIPE)
    return str(directory / "tiny.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """A finished run, to be copied; its recipe lies beside it."""
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert run(["train", write_recipe(directory), "--run-dir", "run", "--quiet"]) == 0
    return directory / "run"


@pytest.fixture
def damaged(whole, tmp_path, monkeypatch) -> pathlib.Path:
    """A copy of the run, as a kill before its end leaves it, to be damaged."""
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run"


def again(directory: pathlib.Path) -> int:
    return run(["train", str(directory.parent / "tiny.yaml"), "--run-dir", str(directory), "--quiet"])


def rows_of(directory: pathlib.Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [(row["kind"], row["step"]) for row in rows]


def killed(directory: pathlib.Path, place: str, number: int, *changes: str) -> str:
    """Trains until the `number`-th call of a function; what standard error said."""
    words = ["train", str(directory.parent / "tiny.yaml"), *changes, "--run-dir", str(directory)]
    command = [sys.executable, KILLED_AT, place, str(number), *words]
    ended = subprocess.run(
        command, cwd=directory.parent, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return ended.stderr


@pytest.mark.slow
def test_killed_between_any_two_files_it_ends_as_if_nothing_had_happened(whole, tmp_path, monkeypatch):
    """Of the tokenizer, before the first checkpoint, between a checkpoint and `best.json`, and while one is removed."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    directory = tmp_path / "killed"
    killed(directory, "pathlib:Path.write_bytes", 2)  # what saves a tokenizer wrote one file
    assert not (directory / "tokenizer").exists()
    killed(directory, "jaxft.workflows.runs.run_directory:write_atomically", 3)
    killed(directory, "jaxft.checkpoint.checkpoints:write_manifest", 1)
    assert rows_of(directory)[0] == ("evaluation", 0)
    killed(directory, "jaxft.workflows.runs.run_directory:RunDirectory.write_best", 3)
    steps = RunDirectory(directory).checkpoints.steps()
    best = json.loads((directory / "best.json").read_text())["step"]
    assert max(steps) > best and RunDirectory(directory).used_step() == max(steps)
    (directory / "checkpoints" / ".removed-1").mkdir()
    (directory / ".best.json.123.tmp").write_text("{")
    assert again(directory) == 0
    one, two = open_run(whole), open_run(directory)
    assert one.step == two.step
    jax.tree.map(np.testing.assert_array_equal, one.parameters, two.parameters)
    assert rows_of(directory) == rows_of(whole)
    left = [path.name for path in directory.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert left == []


def test_half_a_tokenizer_of_a_killed_start_is_written_anew(damaged):
    """As versions before this one left it."""
    tokenizer = sorted(path for path in (damaged / "tokenizer").iterdir())
    tokenizer[0].unlink()
    for name in ("checkpoints", "model.json", "best.json", "metrics.jsonl"):
        path = damaged / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert again(damaged) == 0


def flip(path: pathlib.Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.99])
def test_a_flipped_bit_of_what_parameters_belong_to_is_refused(damaged, capsys, place):
    files = [damaged / "model.json", *sorted((damaged / "tokenizer").iterdir())]
    assert len(files) > 2
    for path in files:
        content = path.read_bytes()
        flip(path, place)
        for words in (["evaluate", str(damaged)], ["train", "tiny.yaml", "--run-dir", str(damaged), "--quiet"]):
            capsys.readouterr()
            assert run(words) == 4, (path, words)
            told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxft: ")]
            assert len(told) == 1 and path.name in told[0]
        path.write_bytes(content)
    assert run(["evaluate", str(damaged)]) == 0


def test_a_missing_file_of_the_tokenizer_and_the_model_of_another_run_are_refused(damaged, capsys):
    path = sorted((damaged / "tokenizer").iterdir())[-1]
    content = path.read_bytes()
    path.unlink()
    assert run(["evaluate", str(damaged)]) == 4 and f"{path.name} is missing" in capsys.readouterr().err
    path.write_bytes(content)
    other = RunDirectory(damaged.parent / "other")
    stored = RunDirectory(damaged).model()
    shutil.copytree(damaged / "tokenizer", other.path / "tokenizer")
    other.write_model(stored.config, {}, None, None)
    shutil.copyfile(other.path / "model.json", damaged / "model.json")
    assert run(["evaluate", str(damaged)]) == 4
    assert "model.json of its run is not the one that it was written with" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, '{"step": 4, "metric": "held.loss", "value": 0.0}'])
def test_the_best_step_is_that_of_the_history_whatever_best_json_says(damaged, content):
    used = RunDirectory(damaged).used_step()
    assert used == json.loads((damaged / "best.json").read_text())["step"] != 4
    if content is None:
        (damaged / "best.json").unlink()
    else:
        (damaged / "best.json").write_text(content)
    assert RunDirectory(damaged).used_step() == used


def test_a_newest_checkpoint_that_is_passed_over_is_said_by_evaluate_too(damaged, capsys):
    for damage in ("manifest.json", "parameters"):
        step = damaged / "checkpoints" / "12"
        if damage == "manifest.json":
            (step / damage).unlink()
        else:
            shutil.copytree(damaged / "checkpoints" / "4", step, dirs_exist_ok=True)  # another step's in its place
        assert run(["evaluate", str(damaged)]) == 0
        assert f"{step} is left out" in capsys.readouterr().err


def test_a_checkpoint_in_the_place_of_another_is_not_taken_for_it(damaged, capsys):
    checkpoints = damaged / "checkpoints"
    shutil.rmtree(checkpoints / "12")
    (checkpoints / "8").rename(checkpoints / "12")
    assert RunDirectory(damaged).checkpoints.newest_good() == 4
    with pytest.raises(CheckpointError, match="it is the checkpoint of step 8"):
        RunDirectory(damaged).chosen_step(12)


def test_a_damaged_best_checkpoint_is_said_and_does_not_keep_the_run_from_its_end(damaged, capsys):
    shutil.rmtree(damaged / "checkpoints" / "12")
    best = json.loads((damaged / "best.json").read_text())["step"]
    assert best == 12  # so that the loss of step 8, which the resumed run begins with, is the best so far
    flip(max((damaged / "checkpoints" / "8" / "parameters").rglob("d/*"), key=lambda path: path.stat().st_size), 0.5)
    assert run(["train", "tiny.yaml", "checkpoint.keep=4", "--run-dir", str(damaged), "--quiet"]) == 0
    assert RunDirectory(damaged).used_step() == 12


def test_changed_metrics_are_said(damaged, capsys):
    metrics = damaged / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"step": 2', '"step": 3', 1))
    assert again(damaged) == 0
    assert "metrics.jsonl is not what the run wrote" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_still_opens_and_goes_on(damaged):
    """Its model names no files, its manifests neither step nor model, its checkpoints not the best."""
    described = json.loads((damaged / "model.json").read_text())
    (damaged / "model.json").write_text(json.dumps({k: described[k] for k in ("model", "heads", "huggingface")}))
    for step in (damaged / "checkpoints").iterdir():
        manifest = json.loads((step / "manifest.json").read_text())
        (step / "manifest.json").write_text(json.dumps({"crc32": manifest["crc32"]}))
    assert open_run(damaged).step == json.loads((damaged / "best.json").read_text())["step"]
    shutil.rmtree(damaged / "checkpoints" / "12")
    (damaged / "best.json").unlink()
    assert again(damaged) == 0


def test_a_damaged_tokenizer_in_the_cache_is_trained_again(damaged, capsys):
    (cached,) = (damaged.parent / "cache" / "tokenizers").iterdir()
    model = max(cached.iterdir(), key=lambda path: path.stat().st_size)
    flip(model, 0.5)
    capsys.readouterr()
    assert run(["train", "tiny.yaml", "--run-dir", "new", "--quiet"]) == 0
    assert "is trained again" in capsys.readouterr().err
    assert (damaged.parent / "new" / "tokenizer" / model.name).read_bytes() == (
        damaged / "tokenizer" / model.name
    ).read_bytes()


class Removing(jaxft.Callback):
    """Removes the lock file of its run after the first report, and may put a file of somebody else there."""

    def __init__(self, replaced: bool):
        self.replaced, self.done = replaced, False

    def on_begin(self, control):
        self.lock = control.directory / ".lock"

    def on_log(self, step, metrics):
        if not self.done:
            self.lock.unlink()
            if self.replaced:
                self.lock.touch()
        self.done = True


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_file_that_somebody_removes_is_noticed(damaged, caplog, replaced):
    shutil.rmtree(damaged)
    if replaced:
        with pytest.raises(JaxftError, match="another process has taken its place"):
            jaxft.train("tiny.yaml", run_directory=damaged, quiet=True, callbacks=[Removing(True)])
        assert len(rows_of(damaged)) == 2
    else:
        jaxft.train("tiny.yaml", run_directory=damaged, quiet=True, callbacks=[Removing(False)])
        assert (damaged / ".lock").exists()


def disk_is_full(self, *arguments, **keywords):
    raise OSError(28, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_next_is_tried(damaged, capsys, monkeypatch):
    """The state of the run is that of a run whose checkpoints were all written."""
    written = checkpoints.write_manifest
    full = iter([True, False])  # the first time only
    monkeypatch.setattr(
        checkpoints, "write_manifest", lambda *a: disk_is_full(*a) if next(full, False) else written(*a)
    )
    shutil.rmtree(damaged)
    assert again(damaged) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "could not be written" in line]
    assert len(told) == 1 and "checkpoints/0" in told[0] and "No space left" in told[0]
    assert RunDirectory(damaged).checkpoints.steps() == [4, 8, 12]


def test_a_run_ends_with_one_message_where_two_checkpoints_in_a_row_cannot_be_written(damaged, capsys, monkeypatch):
    shutil.rmtree(damaged)
    with monkeypatch.context() as full:
        full.setattr(checkpoints, "write_manifest", disk_is_full)
        assert again(damaged) == 4
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("jaxft: ") and "No space left" in line]) == 1
    assert max(step for _, step in rows_of(damaged)) < 12  # it ended soon after the second failure
    assert again(damaged) == 0


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize(("redirected", "status"), [(">/dev/full", 1), (">&-", 1), ("2>/dev/full", 0), ("<&- 2>&-", 0)])
def test_closed_and_full_standard_streams(damaged, redirected, status):
    words = f"{sys.executable} -m jaxft recipes ls {redirected}"
    ended = subprocess.run(["sh", "-c", words], env=environment(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
    assert ended.stderr.count("jaxft: ") == (status == 1)


def test_no_closed_stream_gives_its_number_to_a_file_of_the_run(damaged):
    shutil.rmtree(damaged)
    words = f"{sys.executable} -m jaxft train tiny.yaml --run-dir run <&- >&- 2>&-"
    ended = subprocess.run(["sh", "-c", words], env=environment(), timeout=300)
    assert ended.returncode == 1  # the table of results could not be printed
    assert (damaged / "summary.json").exists() and (damaged / ".lock").read_bytes() == b""


def test_a_terminal_that_is_gone_saves_as_other_signals_do(damaged):
    shutil.rmtree(damaged)
    words = [sys.executable, "-m", "jaxft", "train", "tiny.yaml", "training.steps=100000", "--run-dir", str(damaged)]
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            break
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "stopped by SIGHUP after step" in err and "Traceback" not in err
    assert max(RunDirectory(damaged).checkpoints.steps()) > 2


def test_a_clock_that_goes_backwards_changes_no_figure(damaged, monkeypatch):
    shutil.rmtree(damaged)
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr("time.time", lambda: next(clock))
    assert again(damaged) == 0
    assert 0 < json.loads((damaged / "summary.json").read_text())["seconds"] < 600


def test_a_changed_recipe_of_a_run_is_said(damaged, capsys):
    recipe = damaged / "recipe.yaml"
    assert run(["evaluate", str(damaged), "evaluation.held.batch_size=4"]) == 0
    assert "is not the recipe" not in capsys.readouterr().err
    recipe.write_text(recipe.read_text().replace("length: 16", "length: 12"))
    assert run(["evaluate", str(damaged)]) == 0
    err = capsys.readouterr().err
    assert "is not the recipe that the run began with" in err and "length: 16 there, 12 here" in err
