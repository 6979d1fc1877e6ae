"""How far the reading of data has come, for a person who waits at a terminal; nothing in a log file or a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from jaxft.reporting.progress import ForgivingStream, format_count, is_terminal

if TYPE_CHECKING:
    from rich.live import Live

# What is over sooner is not worth a glance.
_PATIENCE_SECONDS = 1.0
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclasses.dataclass
class _Viewer:
    """Where readings are shown, None where nobody looks; one at a time."""

    stream: TextIO | None = None
    is_busy: bool = False


_viewer = _Viewer()


@contextlib.contextmanager
def readings_shown(quiet: bool = False, stream: TextIO | None = None) -> Iterator[None]:
    """Shows what is read in this block on a stream, standard error by default, if that is a terminal.

    Args:
      quiet: shows nothing all the same, as in every process of a run but its first.
      stream: see above.
    """
    stream = sys.stderr if stream is None else stream
    before, _viewer.stream = _viewer.stream, None if quiet or not is_terminal(stream) else stream
    try:
        yield
    finally:
        _viewer.stream = before


def is_shown() -> bool:
    """Whether a reading would be shown, so that it pays to find out how much there is to read."""
    return _viewer.stream is not None and not _viewer.is_busy


class Reading:
    """One reading; a context manager. Its line comes once it has taken a while, and goes when it ends."""

    def __init__(self, label: str, size: int | None = None, rows: int | None = None):
        """
        Args:
          label: what is read.
          size: bytes of it, where they are counted and known.
          rows: of it, where they are known.
        """
        self._label, self._size, self._of_rows = label, size, rows
        self._rows = self._read = 0
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live, _viewer.is_busy = None, False

    def add_rows(self, count: int) -> None:
        """Tells of further rows."""
        self._rows += count
        if self._live is None:
            self._open()

    def add_bytes(self, count: int) -> None:
        """Tells of further bytes."""
        self._read += count
        if self._live is None:
            self._open()

    def described(self) -> str:
        """Like `train.jsonl: 1.25M rows, 37% of 4.1 GB, 86.2k rows/s`."""
        pace = format_count(self._rows / max(time.monotonic() - self._started, 1e-9))
        parts = [f"{format_count(self._rows)} rows"] if self._rows else []
        if self._of_rows:
            parts = [f"{self._rows / self._of_rows:.0%} of {format_count(self._of_rows)} rows"]
        if self._size:
            # A file that grows, or whose parts are read twice, is read to its end at most.
            parts.append(f"{min(self._read / self._size, 1):.0%} of {format_size(self._size)}")
        return f"{self._label}: " + ", ".join([*parts, *([f"{pace} rows/s"] if self._rows else [])])

    def _open(self) -> None:
        if not is_shown() or time.monotonic() - self._started < _PATIENCE_SECONDS:
            return
        assert _viewer.stream is not None  # as it is shown
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._live = Live(
            console=Console(file=ForgivingStream(_viewer.stream).for_console()),
            get_renderable=lambda: Text(self.described(), style="dim", no_wrap=True, overflow="ellipsis"),
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=_viewer.stream is sys.stderr,
        )
        _viewer.is_busy = True
        self._live.start(refresh=True)


def format_size(size: float) -> str:
    """Bytes in three digits: `950 bytes`, `18.3 kB`, `4.1 GB`."""
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
