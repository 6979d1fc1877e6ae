"""Properties of metric files: what survives a killed run, and that every line is JSON that any reader takes."""

from __future__ import annotations

import importlib.util
import json
import math
import time

import numpy as np
import pytest

from jaxft.errors import DataError, RecipeError
from jaxft.reporting.writers import (
    CombinedWriter,
    JsonlWriter,
    TensorBoardWriter,
    WandbWriter,
    read_rows,
    truncate_after,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def write_steps(path, *steps):
    writer = JsonlWriter(path)
    for step in steps:
        writer.write(step, "train", {"loss": 1 / step})
    writer.close()


def refuse_constants(name):
    raise AssertionError(f"{name} is not JSON")


def test_rows_come_back_as_written_and_carry_the_time(path):
    before = time.time()
    writer = JsonlWriter(path)
    writer.write(10, "train", {"task.loss": np.float32(0.5), "tokens": np.int64(7)})
    writer.write(10, "evaluation", {"reviews.accuracy": 0.75})
    writer.close()
    train, evaluation = read_rows(path)
    assert before - 1 <= train.pop("time") <= time.time() + 1
    assert train == {"step": 10, "kind": "train", "task.loss": 0.5, "tokens": 7}
    assert evaluation["kind"] == "evaluation" and evaluation["reviews.accuracy"] == 0.75


def test_each_row_is_on_disk_before_the_next_is_written(path):
    writer = JsonlWriter(path)
    for step in (1, 2, 3):
        writer.write(step, "train", {})
        assert [row["step"] for row in read_rows(path)] == list(range(1, step + 1))
    writer.close()


def test_values_that_are_not_finite_become_null_in_valid_json(path):
    writer = JsonlWriter(path)
    writer.write(1, "train", {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32("nan"), "e": 1.0})
    writer.close()
    row = json.loads(path.read_text(), parse_constant=refuse_constants)
    assert [row[name] for name in "abcde"] == [None, None, None, None, 1.0]


def test_a_metric_cannot_replace_the_step(path):
    with pytest.raises(ValueError, match="step"):
        JsonlWriter(path).write(1, "train", {"step": 5.0})


def test_wherever_the_last_line_is_torn_the_rows_before_it_are_read_and_writing_goes_on(path):
    write_steps(path, 1, 2, 3)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        complete = [1, 2, 3] if end == len(whole) - 1 else [1, 2]  # only the newline is missing in the last case
        assert [row["step"] for row in read_rows(path)] == complete
        write_steps(path, 9)
        assert [row["step"] for row in read_rows(path)] == [*complete, 9]


def test_a_character_torn_in_half_is_a_torn_line(path):
    write_steps(path, 1)
    path.write_bytes(path.read_bytes() + '{"step": 2, "kind": "é'.encode()[:-1])
    assert [row["step"] for row in read_rows(path)] == [1]


@pytest.mark.parametrize("damage", [b"{torn", b"[]", b'"text"', b'{"kind": "train"}', b"\xff\xfe"])
def test_damage_before_the_last_line_is_an_error_that_names_the_line(path, damage):
    write_steps(path, 1, 2)
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, damage, second, b""]))
    for action in (read_rows, lambda damaged: truncate_after(damaged, 1)):
        with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
            action(path)


def test_resuming_drops_later_rows_and_the_torn_line_and_keeps_the_rest_byte_for_byte(path):
    write_steps(path, 1, 2, 3, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b'{"step": 1, "ki')
    truncate_after(path, 2)
    assert path.read_bytes() == b"".join(lines[:2])
    truncate_after(path, 2)
    assert path.read_bytes() == b"".join(lines[:2])
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_run_that_was_killed_and_resumed_writes_each_step_once(path):
    write_steps(path, 1, 2, 3, 4)
    truncate_after(path, 2)
    write_steps(path, 3, 4, 5)
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4, 5]


def test_resuming_before_anything_was_written_is_fine(path):
    truncate_after(path, 5)
    assert not path.exists()


def test_a_failed_rewrite_leaves_the_old_file(path, monkeypatch):
    write_steps(path, 1, 2)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        truncate_after(path, 1)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_files_hold_the_values(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = TensorBoardWriter(tmp_path)
    writer.write(3, "train", {"task.loss": 0.5, "replay.loss": math.nan})
    writer.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"train/task.loss" in content


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_missing_package_is_answered_with_how_to_install_it(tmp_path):
    with pytest.raises(RecipeError, match=r"pip install 'jaxft\[wandb\]'"):
        WandbWriter("project", "run", tmp_path)


def test_all_writers_are_closed_also_when_closing_one_fails(tmp_path):
    class Failing:
        def write(self, step, kind, values):
            pass

        def close(self):
            raise OSError("service is gone")

    first, last = JsonlWriter(tmp_path / "a"), JsonlWriter(tmp_path / "b")
    combined = CombinedWriter([first, Failing(), last])
    combined.write(1, "train", {"loss": 2.0})
    with pytest.raises(OSError, match="service is gone"):
        combined.close()
    for writer, name in ((first, "a"), (last, "b")):
        assert read_rows(tmp_path / name)[0]["loss"] == 2.0
        with pytest.raises(ValueError, match="closed"):
            writer.write(2, "train", {})
