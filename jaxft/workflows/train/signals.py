"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a note; a second one acts as before. A context manager."""

    _NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}

    def __init__(self, note: Callable[[str], None]):
        """
        Args:
          note: is told the signal's name.
        """
        self._note = note
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # One that is ignored stays so: `nohup` asks that a run outlives its terminal.
            heard = [number for number in self._NAMES if signal.getsignal(number) != signal.SIG_IGN]
            self._old = {number: signal.signal(number, self._receive) for number in heard}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self._note(self._NAMES[signal.Signals(number)])

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        self._restore()
