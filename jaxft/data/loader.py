"""Batches made ahead of time on a thread, while the device computes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


class Prefetcher:
    """Calls `make(step)` for `first, first + 1, ..., last - 1` on a thread and hands the results out in order."""

    def __init__(self, make: Callable[[int], Any], first: int, last: int, depth: int = 2):
        self._waited = 0.0
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, first, last), name="prefetch", daemon=True)
        self._thread.start()

    def _run(self, make, first: int, last: int) -> None:
        try:
            for step in range(first, last):
                self._put((make(step), None))
                if self._stop.is_set():
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, item) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            item, error = self._queue.get()
            self._waited += time.perf_counter() - started
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    def take_waited(self) -> float:
        """Seconds that the consumer waited for data since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Stops the thread; what it made and nobody took is dropped."""
        self._stop.set()
        self._thread.join()
