"""What a program that came with a model may take: it ends with an error where it takes more."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any


class TooMuch(Exception):
    """A program takes longer, or more memory, than it may."""


@contextlib.contextmanager
def bounded(seconds: float, memory: int, filename: str) -> Iterator[None]:
    """Runs a block of Python that may not take more; a single operation is not interrupted.

    It is looked at line by line in its own thread, which makes it a little slower, but can end any loop.

    Args:
      seconds: that it may take.
      memory: bytes by which the process may grow meanwhile.
      filename: that the program's code says it is from; other code is not looked at.

    Raises:
      TooMuch: it takes more.
    """
    ends, most = time.monotonic() + seconds, _most_used() + memory

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != filename:
            return None
        if time.monotonic() > ends:
            raise TooMuch(f"it takes more than {seconds:g} s")
        if _most_used() > most:
            raise TooMuch(f"it takes more than {memory >> 20} MiB")
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def _most_used() -> int:
    """Bytes of memory that the process has had at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10
