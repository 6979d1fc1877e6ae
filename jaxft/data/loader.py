"""Batches made ahead of time, on a thread or by processes, while the device computes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxft.data.processes import mapped_in_order

MakeBatch = Callable[[int], Any]


class Prefetcher:
    """Hands out `put(make(step))` for `first, first + 1, ..., last - 1`, in order.

    `put` runs on a thread of this process, and `make` there too or, with workers, in processes of their own: a batch is
    a function of its step, so that whoever makes it makes the same.
    """

    def __init__(
        self,
        make: MakeBatch,
        first: int,
        last: int,
        *,
        put: Callable[[Any], Any] = lambda batch: batch,
        workers: int = 0,
        depth: int = 2,
    ):
        """
        Args:
          make: a batch on the host; to be sent to other processes where there are workers.
          first: step.
          last: one past the last step.
          put: lays a batch out on the devices.
          workers: processes that make batches.
          depth: batches that are ready at most.
        """
        self._waited = 0.0
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        arguments = (make, put, range(first, last), workers)
        self._thread = threading.Thread(target=self._run, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def _run(self, make: MakeBatch, put: Callable[[Any], Any], steps: range, workers: int) -> None:
        try:
            with mapped_in_order(make, workers, ahead=2) as batches:
                for batch in batches(steps):
                    self._put((put(batch), None))
                    if self._stop.is_set():
                        return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, item: tuple[Any, BaseException | None]) -> None:
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
        """Stops the thread and the processes; what they made and nobody took is dropped."""
        self._stop.set()
        self._thread.join()
