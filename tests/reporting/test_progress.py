"""Properties of the progress display: readable in a log, alive in a terminal, and never the reason a run stops."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

from jaxft.reporting.progress import Progress, describe_metrics, format_count, format_duration

METRICS = {"loss": 1.0, "task.loss": 0.41234, "replay.loss": 2.314, "task.accuracy": 0.9, "tokens_per_second": 18300.0}

SCRIPT = textwrap.dedent(
    """
    import math, time
    from jaxft.reporting.progress import Progress

    with Progress("reviews [bold]", 40) as progress:
        for step in range(1, 41):
            progress.update(step, {"task.loss": math.nan if step == 3 else 1 / step, "tokens_per_second": 18300})
            if step == 20:
                progress.message("saved [checkpoint] 20")
            time.sleep(0.01)
    print("training went on to the end")
    """
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (-1, "0.0s"),
        (3.21, "3.2s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (3599.7, "1h00m"),
        (3900, "1h05m"),
        (86400 * 2 + 3600 * 3, "2d03h"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.7, "1k"),
        (18300, "18.3k"),
        (999_900, "1M"),
        (7e9, "7B"),
        (2e12, "2T"),
        (-18300, "-18.3k"),
        (math.nan, "?"),
    ],
)
def test_counts(count, text):
    assert format_count(count) == text


def test_metrics_show_the_loss_of_each_stream_and_the_speed():
    assert describe_metrics(METRICS) == ["task.loss 0.412", "replay.loss 2.31", "18.3k tokens/s"]
    assert describe_metrics({"loss": 0.5}) == ["loss 0.5"]


def test_metrics_that_are_missing_or_no_numbers_do_no_harm():
    odd = {"task.loss": math.nan, "replay.loss": None, "code.loss": "?", "tokens_per_second": math.inf}
    assert describe_metrics(odd) == ["task.loss nan"]
    assert describe_metrics({}) == []


def test_outside_a_terminal_every_update_is_one_plain_line():
    stream = io.StringIO()
    with Progress("reviews", 1000, first_step=100, stream=stream) as progress:
        progress.update(110, METRICS)
        progress.message("saved checkpoint 110")
        progress.update(120, METRICS)
        progress.update(1000, {})
    title, first, saved, second, last = stream.getvalue().splitlines()
    assert title == "reviews: 1000 steps, from step 100"
    assert first == "step 110/1000  task.loss 0.412  replay.loss 2.31  18.3k tokens/s"
    assert saved == "saved checkpoint 110"
    assert re.fullmatch(r"step 120/1000  task\.loss 0\.412  .* tokens/s  eta \S+", second)
    assert re.fullmatch(r"step 1000/1000  eta 0\.0s", last)
    assert "\x1b" not in stream.getvalue()


def test_a_step_that_repeats_or_goes_back_does_no_harm():
    stream = io.StringIO()
    with Progress("reviews", 10, stream=stream) as progress:
        for step in (5, 5, 4):
            progress.update(step, {})
    assert "eta" not in stream.getvalue()


def test_quiet_shows_nothing():
    stream = io.StringIO()
    with Progress("reviews", 10, stream=stream, quiet=True) as progress:
        progress.update(5, METRICS)
        progress.message("saved")
    assert stream.getvalue() == ""


def test_a_process_without_standard_error_trains_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("reviews", 10) as progress:
        progress.update(5, METRICS)


def test_a_stream_that_is_closed_before_or_during_the_run_does_no_harm():
    stream = io.StringIO()
    with Progress("reviews", 10, stream=stream) as progress:
        stream.close()
        progress.update(5, METRICS)
        progress.message("saved")
    with Progress("reviews", 10, stream=stream) as progress:
        progress.update(5, METRICS)


def test_text_that_the_stream_cannot_encode_is_replaced_and_later_lines_still_come():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with Progress("评论", 10, stream=stream) as progress:
        progress.update(5, METRICS)
    assert raw.getvalue().startswith(b"??: 10 steps\nstep 5/10")


def test_an_error_in_training_passes_through():
    with pytest.raises(KeyError), Progress("reviews", 10, stream=io.StringIO()):
        raise KeyError("from training")


def start_script(**pipes):
    environment = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env=environment, **pipes)


def test_a_broken_pipe_neither_stops_a_run_nor_changes_its_exit_status():
    reading, writing = os.pipe()
    process = start_script(stderr=writing)
    os.close(writing)
    os.close(reading)
    output, _ = process.communicate(timeout=60)
    assert output == b"training went on to the end\n"
    assert process.returncode == 0


def read_terminal(parent):
    """All that a terminal was sent until its other side is closed."""
    received = b""
    try:
        while chunk := os.read(parent, 4096):
            received += chunk
    except OSError:
        pass  # this is how Linux says that the other side is closed
    return received.decode()


def test_a_terminal_gets_a_bar_and_messages_read_literally():
    parent, child = pty.openpty()
    process = start_script(stderr=child)
    os.close(child)
    shown = read_terminal(parent)
    os.close(parent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == b"training went on to the end\n"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "━" in text and "40/40" in text and "task.loss 0.025" in text and "18.3k tokens/s" in text
    assert "saved [checkpoint] 20" in text
    last_frame = text[text.rindex("reviews") :]
    assert last_frame.startswith("reviews [bold]") and "40/40" in last_frame
    assert "Traceback" not in text
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is shown again at the end"


def test_a_terminal_that_is_hung_up_during_the_run_does_not_stop_it():
    parent, child = pty.openpty()
    process = start_script(stderr=child)
    os.close(child)
    os.read(parent, 10)
    os.close(parent)
    output, _ = process.communicate(timeout=60)
    assert output == b"training went on to the end\n"
    assert process.returncode == 0
