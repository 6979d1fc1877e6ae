"""Readings: seen by who waits at a terminal, true to the byte, and nowhere else."""

from __future__ import annotations

import gzip
import io
import json
import pathlib

import pytest

from jaxft.data.sources import SourceConfig, scan_rows
from jaxft.reporting import reading
from jaxft.reporting.reading import Reading, format_size, readings_shown


class Terminal(io.StringIO):
    """What a program takes for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    """Where a reading is shown from its first row on."""
    monkeypatch.setattr(reading, "_PATIENCE_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return Terminal()


@pytest.fixture(params=["t.jsonl", "t.jsonl.gz"])
def file(request, tmp_path) -> pathlib.Path:
    """40,000 rows."""
    path = tmp_path / request.param
    content = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(40_000)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_rows_and_the_share_of_the_bytes_are_told(file, terminal, tmp_path):
    with readings_shown(stream=terminal):
        rows = list(scan_rows(SourceConfig(jsonl=(file.name,)), tmp_path))
    size = format_size(file.stat().st_size)
    assert f"{file.name}: 40k rows, 100% of {size}, " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[1A\x1b[2K"), "the line is gone at the end"
    assert rows == list(scan_rows(SourceConfig(jsonl=(file.name,)), tmp_path))


@pytest.mark.parametrize("shuffle", [None, 1])
def test_rows_are_those_that_are_used_and_bytes_all_that_was_read(file, terminal, tmp_path, shuffle):
    config = SourceConfig(jsonl=(file.name,), filter={"text": ("row 7", "row 39999")}, shuffle=shuffle)
    with readings_shown(stream=terminal):
        assert len(list(scan_rows(config, tmp_path))) == 2
    assert f"{file.name}: 2 rows, 100% of " in terminal.getvalue()


def test_who_stops_early_leaves_no_line(file, terminal, tmp_path):
    with readings_shown(stream=terminal):
        rows = scan_rows(SourceConfig(jsonl=(file.name,)), tmp_path)
        next(rows)
        rows.close()
        assert terminal.getvalue().endswith("\x1b[2K") and reading.is_shown()


def test_one_reading_is_shown_at_a_time(terminal):
    with readings_shown(stream=terminal), Reading("outer") as outer, Reading("inner", size=10) as inner:
        outer.add_rows(1)
        inner.add_bytes(10)
    assert "outer: 1 rows" in terminal.getvalue() and "inner" not in terminal.getvalue()


@pytest.mark.parametrize("hidden", ["quiet", "a pipe", "a dumb terminal", "nobody asked", "soon over"])
def test_nothing_is_written_where_nobody_waits(file, terminal, tmp_path, monkeypatch, hidden):
    stream = io.StringIO() if hidden == "a pipe" else terminal
    if hidden == "a dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    if hidden == "soon over":
        monkeypatch.setattr(reading, "_PATIENCE_SECONDS", 1e9)
    if hidden == "nobody asked":
        assert len(list(scan_rows(SourceConfig(jsonl=(file.name,)), tmp_path))) == 40_000
    else:
        with readings_shown(hidden == "quiet", stream):
            assert len(list(scan_rows(SourceConfig(jsonl=(file.name,)), tmp_path))) == 40_000
    assert stream.getvalue() == ""


def test_a_terminal_that_is_gone_stops_nothing(file, terminal, tmp_path):
    with readings_shown(stream=terminal):
        rows = scan_rows(SourceConfig(jsonl=(file.name,)), tmp_path)
        next(rows)
        terminal.close()
        assert len(list(rows)) == 39_999


@pytest.mark.parametrize(
    ("size", "text"), [(950, "950 bytes"), (18_300, "18.3 kB"), (4.1e9, "4.1 GB"), (7e15, "7e+03 TB")]
)
def test_sizes(size, text):
    assert format_size(size) == text
