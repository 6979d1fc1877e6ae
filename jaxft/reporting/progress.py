"""The live view of a training run on standard error: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Group

_PACE_WINDOW = 20


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: `3.2s`, `48s`, `3m12s`, `1h05m`, `2d03h`; `?` where it is not finite."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def format_count(count: float) -> str:
    """A count in three digits: `950`, `18.3k`, `1.25M`, `7B`, `2T`; `?` where it is not finite."""
    if not math.isfinite(count):
        return "?"
    for suffix in ("", "k", "M", "B"):
        if abs(count) < 999.5:
            return f"{count:.3g}{suffix}"
        count /= 1000
    return f"{count:.3g}T"


class Progress:
    """Shows how a training run goes, from the first step to the last; a context manager.

    In a terminal this is a bar that stays at the bottom; anywhere else it is one line for each update. Whatever
    happens to the stream, training goes on: once nobody reads it any more, the display falls silent.
    """

    def __init__(
        self,
        title: str,
        total_steps: int,
        first_step: int = 0,
        stream: TextIO | None = None,
        quiet: bool = False,
    ):
        """
        Args:
          title: name of the run.
          total_steps: the step at which the run ends.
          first_step: the step that a resumed run starts from.
          stream: where to write; standard error by default.
          quiet: show nothing, as on every process of a run but its first.
        """
        self._pace = _Pace(total_steps)
        stream = sys.stderr if stream is None else stream
        self._display: _NoDisplay | _PlainDisplay | _LiveDisplay
        if quiet or stream is None:  # a process without a console has no standard error
            self._display = _NoDisplay()
        elif is_terminal(stream):
            self._display = _LiveDisplay(title, first_step, total_steps, stream)
        else:
            self._display = _PlainDisplay(title, first_step, total_steps, stream)

    def __enter__(self) -> Progress:
        self._display.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self._display.close()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows a step.

        Args:
          step: updates done so far.
          metrics: the losses, as `loss` or `<stream>.loss`, and `tokens_per_second` are shown; anything else is
            passed over. None of them has to be there or to be finite.
        """
        self._display.update(step, describe_metrics(metrics), self._pace.remaining(step, time.monotonic()))

    def message(self, text: str) -> None:
        """Writes a line that stays, above the bar."""
        self._display.message(text)


def describe_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The metrics worth a glance, each as a short text: the loss of each stream and the tokens per second."""
    losses = [name for name in metrics if name.endswith(".loss")] or [name for name in metrics if name == "loss"]
    numbers = [(name, _as_float(metrics[name])) for name in losses]
    parts = [f"{name} {value:.3g}" for name, value in numbers if value is not None]
    speed = _as_float(metrics.get("tokens_per_second"))
    if speed is not None and math.isfinite(speed):
        parts.append(f"{format_count(speed)} tokens/s")
    return parts


def _as_float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


class _Pace:
    """Time that remains, from the pace of the last updates.

    The first update starts the clock, so that the compilation of the first step does not count.
    """

    def __init__(self, total_steps: int):
        self._total_steps = total_steps
        self._seen: deque[tuple[float, int]] = deque(maxlen=_PACE_WINDOW)

    def remaining(self, step: int, now: float) -> float | None:
        """Seconds to the last step, or None where there is no pace yet."""
        self._seen.append((now, step))
        then, earlier = self._seen[0]
        if step <= earlier or now <= then:
            return None
        return max(self._total_steps - step, 0) * (now - then) / (step - earlier)


class ForgivingStream:
    """A text stream that falls silent, once and for all, when nobody reads the real one any more."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._alive = True
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        self._attempt(self._write_encodable, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._alive and is_terminal(self._stream)

    def for_console(self) -> TextIO:
        """Itself: a console only writes, flushes, and asks for `encoding` and `isatty`."""
        return cast(TextIO, self)

    def _attempt(self, action: Callable[..., object], *arguments: object) -> None:
        if not self._alive:
            return
        try:
            action(*arguments)
        except (OSError, ValueError):  # ValueError: the file object was closed
            self._alive = False

    def _write_encodable(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "replace").decode("ascii"))


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads a stream as it is written, on a terminal that can go back over a line."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, OSError, ValueError):
        return False


class _NoDisplay:
    """Shows nothing."""

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def update(self, step: int, parts: list[str], remaining: float | None) -> None:
        pass

    def message(self, text: str) -> None:
        pass


class _PlainDisplay:
    """One line for each update, for log files and pipes."""

    def __init__(self, title: str, first_step: int, total_steps: int, stream: TextIO):
        self._title = title
        self._first_step = first_step
        self._total_steps = total_steps
        self._stream = ForgivingStream(stream)

    def open(self) -> None:
        start = f", from step {self._first_step}" if self._first_step else ""
        self.message(f"{self._title}: {self._total_steps} steps{start}")

    def close(self) -> None:
        pass

    def update(self, step: int, parts: list[str], remaining: float | None) -> None:
        ending = [] if remaining is None else [f"eta {format_duration(remaining)}"]
        self.message("  ".join([f"step {step}/{self._total_steps}", *parts, *ending]))

    def message(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


class _LiveDisplay:
    """A bar and a line of metrics that stay at the bottom of a terminal."""

    def __init__(self, title: str, first_step: int, total_steps: int, stream: TextIO):
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._total_steps = total_steps
        self._state: tuple[int, list[str], float | None] = (first_step, ["starting"], None)
        self._opened_at = time.monotonic()
        self._live = Live(
            console=Console(file=ForgivingStream(stream).for_console()),
            get_renderable=self._render,
            refresh_per_second=4,
            # Standard output carries results, perhaps into a pipe, and stays out of this.
            redirect_stdout=False,
            redirect_stderr=stream is sys.stderr,
        )

    def open(self) -> None:
        self._opened_at = time.monotonic()
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def update(self, step: int, parts: list[str], remaining: float | None) -> None:
        self._state = (step, parts, remaining)

    def message(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def _render(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        step, parts, remaining = self._state
        times = format_duration(time.monotonic() - self._opened_at)
        if remaining is not None:
            times += f", eta {format_duration(remaining)}"
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(max_width=32, no_wrap=True, overflow="ellipsis")
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        line.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=max(self._total_steps, 1), completed=step),
            Text(f"{step}/{self._total_steps}"),
            Text(times, style="cyan"),
        )
        return Group(line, Text("  ".join(parts), style="dim"))
