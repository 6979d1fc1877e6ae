"""A user's own code around the steps: told what happens, in order, and heard when it asks for something."""

from __future__ import annotations

import json
import math
import pathlib
import signal

import jax
import numpy as np
import pytest
from several import ended, scripted

import jaxft
from jaxft.errors import Interrupted
from jaxft.reporting.writers import read_rows

WORDS = ("training.steps=10", "training.log_every=2", "training.evaluate_every=5", "checkpoint.every=100")


class Recorder(jaxft.Callback):
    """Notes what it is told, and asks once, at the first report from a step on, for what it is made with."""

    def __init__(self, step: int | None = None, ask: str | None = None):
        self.told: list[tuple] = []
        self._step, self._ask = step, ask

    def on_begin(self, control):
        self.control = control
        self.told.append(("begin", control.first_step, control.total_steps))

    def on_log(self, step, metrics):
        self.told.append(("log", step, dict(metrics)))
        if self._step is None or step < self._step:
            return
        self._step = None
        if self._ask == "interrupt":
            signal.raise_signal(signal.SIGINT)
        else:
            getattr(self.control, self._ask)()

    def on_evaluate(self, step, metrics):
        self.told.append(("evaluate", step, dict(metrics)))

    def on_save(self, step):
        self.told.append(("save", step))

    def on_end(self, step):
        self.told.append(("end", step))

    def steps(self, kind: str) -> list[int]:
        """The steps of what was told of a kind."""
        return [entry[1] for entry in self.told if entry[0] == kind]


def checkpoints(run: pathlib.Path) -> set[int]:
    """Steps that have one."""
    return {int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, shared_data):
    """The recipe, and a run of it that nobody watches."""
    from support.small_recipe import RECIPE

    directory = tmp_path_factory.mktemp("alone")
    recipe = directory / "small.yaml"
    recipe.write_text(f"{RECIPE}data: {{directory: {shared_data}}}\n")
    jaxft.train(recipe, WORDS, directory / "run", quiet=True)
    return recipe, directory / "run"


def test_it_is_told_what_the_files_say_in_order(alone, tmp_path):
    recipe, plain = alone
    recorder = Recorder()
    summary = jaxft.train(recipe, WORDS, tmp_path / "run", quiet=True, callbacks=[recorder])

    kinds = [entry[:2] for entry in recorder.told]

    assert kinds[:2] == [("begin", 0), ("evaluate", 0)]
    assert kinds[-3:] == [("evaluate", 10), ("save", 10), ("end", 10)]
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    for kind, name in (("log", "train"), ("evaluate", "evaluation")):
        written = [row for row in rows if row["kind"] == name]
        told = [entry for entry in recorder.told if entry[0] == kind]
        assert [entry[1] for entry in told] == [row["step"] for row in written]
        for (_, _, metrics), row in zip(told, written, strict=True):
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            assert finite == {name: row[name] for name in finite}
    assert summary["steps"] == 10 and recorder.control.directory == tmp_path / "run"
    # Who watches changes nothing.
    ours, theirs = (jaxft.load_pretrained(run).params for run in (plain, tmp_path / "run"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))


def test_the_end_can_be_asked_for(alone, tmp_path):
    recorder = Recorder(step=4, ask="finish")
    summary = jaxft.train(alone[0], WORDS, tmp_path / "run", quiet=True, callbacks=[recorder])

    last = summary["steps"]
    assert 4 < last < 7 and summary["stopped_early"] and summary["evaluation"]["reviews"]
    assert recorder.told[-3:][1:] == [("save", last), ("end", last)] and recorder.steps("evaluate")[-1] == last
    assert last in checkpoints(tmp_path / "run")
    # It was the end for good, as any other.
    assert jaxft.train(alone[0], WORDS, tmp_path / "run", quiet=True)["already_finished"]


def test_a_checkpoint_can_be_asked_for(alone, tmp_path):
    recorder = Recorder(step=4, ask="save")
    summary = jaxft.train(alone[0], WORDS, tmp_path / "run", quiet=True, callbacks=[recorder])

    asked, last = recorder.steps("save")
    assert 4 < asked < 7 and last == summary["steps"] == 10
    assert checkpoints(tmp_path / "run") == {asked, last}


def test_it_is_told_of_an_interruption_and_of_the_start_that_goes_on(alone, tmp_path):
    first, second = Recorder(step=4, ask="interrupt"), Recorder()
    with pytest.raises(Interrupted):
        jaxft.train(alone[0], WORDS, tmp_path / "run", quiet=True, callbacks=[first])
    stopped = first.told[-1][1]
    assert first.told[-2:] == [("save", stopped), ("end", stopped)] and stopped < 10

    jaxft.train(alone[0], WORDS, tmp_path / "run", quiet=True, callbacks=[second])
    assert second.told[0] == ("begin", stopped, 10) and 0 not in second.steps("evaluate")


def test_an_error_in_it_ends_the_run_and_the_checkpoint_stays(alone, tmp_path):
    class Broken(jaxft.Callback):
        def on_log(self, step, metrics):
            if step > 5:
                raise ZeroDivisionError("in the user's code")

    words = (*WORDS, "checkpoint.every=5")
    with pytest.raises(ZeroDivisionError):
        jaxft.train(alone[0], words, tmp_path / "run", quiet=True, callbacks=[Broken()])
    assert checkpoints(tmp_path / "run") == {5}


@pytest.mark.slow
def test_what_one_process_asks_for_all_do_after_the_same_step(alone, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = alone[0].read_text().replace("steps: 60, log_every: 5, evaluate_every: 20", "steps: 40, log_every: 2")
    recipe.write_text(text.replace("every: 10, keep: 2", "every: 100, keep: 9"))
    script = pathlib.Path(__file__).parent / "finishing_early.py"
    with scripted(2, script, str(recipe), str(tmp_path / "run"), "4", "8") as processes:
        told = ended(processes, 300)
    assert [code for code, _, _ in told] == [0, 0], told
    steps = {json.loads(err.splitlines()[-1]) for _, _, err in told}
    (last,) = steps
    assert 8 < last < 40
    saved = checkpoints(tmp_path / "run")
    assert last in saved and any(4 < step < last for step in saved), saved
