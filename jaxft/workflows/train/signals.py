"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a note; a second one acts as it did before. A context manager."""

    _NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

    def __init__(self, note: Callable[[str], None]):
        """
        Args:
          note: is told the signal's name.
        """
        self._note = note
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._receive) for number in self._NAMES}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self._note(self._NAMES[signal.Signals(number)])

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        self._restore()
