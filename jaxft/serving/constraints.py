"""Automata of the constraints that requests name, made in processes that are stopped where one takes too long."""

from __future__ import annotations

import asyncio
import queue
import time
from concurrent.futures import ThreadPoolExecutor

from jaxft.generation.automaton import Automaton
from jaxft.generation.config import GenerationConfig
from jaxft.generation.constraints.tokens import as_automaton, constraint_of, spelled_tokens
from jaxft.generation.constraints.worker import ConstraintWorker
from jaxft.generation.generator import Generator
from jaxft.serving.errors import ApiError

# Side by side, so that one that takes long does not hold up the others.
_WORKERS = 2
# That any schema worth following needs less than; the request's own limit may be nearer.
_SECONDS = 5.0
# Requests whose constraint is not made yet; with the workers busy, the last waits 40 s.
_MOST_WAITING = 16
# Kept for other requests with the same constraint, each of at most 32 MB.
_KEPT = 8


class Constraints:
    """Makes what requests are constrained by.

    Args:
      generator: that follows them.
    """

    def __init__(self, generator: Generator):
        self._generator = generator
        self._threads = ThreadPoolExecutor(_WORKERS, "jaxft-constraints")
        self._idle: queue.SimpleQueue[ConstraintWorker] = queue.SimpleQueue()
        self._workers: list[ConstraintWorker] = []
        self._kept: dict[tuple[str, str], Automaton] = {}
        self._waiting = 0

    async def automaton(self, config: GenerationConfig, deadline: float) -> Automaton | None:
        """The automaton of a configuration; None where it has no constraint.

        Args:
          config: of a request.
          deadline: of `time.monotonic`, at which the request must be answered.

        Raises:
          ApiError: too many are waiting for theirs.
          TimeoutError: the time is up.
          RecipeError: it can't be followed.
        """
        if not config.is_constrained:
            return None
        key = constraint_of(config)
        if key not in self._kept:
            if self._waiting >= _MOST_WAITING:
                told = f"{self._waiting} requests wait for their constraints already; ask again later"
                raise ApiError(429, told, code="queue_full", retry=True)
            self._waiting += 1
            made = asyncio.get_running_loop().run_in_executor(self._threads, self._made, key, deadline)
            # Counted until it is done, also where the request's time is up before.
            made.add_done_callback(self._one_less)
            async with asyncio.timeout(deadline - time.monotonic()):
                self._keep(key, await asyncio.shield(made))
        return self._kept[key]

    def close(self) -> None:
        """Ends the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()

    def _one_less(self, done: asyncio.Future[Automaton]) -> None:
        self._waiting -= 1
        if not done.cancelled():
            done.exception()  # seen, whoever still waits

    def _keep(self, key: tuple[str, str], automaton: Automaton) -> None:
        while len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = automaton

    def _made(self, key: tuple[str, str], deadline: float) -> Automaton:
        """In a thread of its own, with a worker of its own."""
        seconds = min(_SECONDS, deadline - time.monotonic())
        if seconds <= 0:
            raise TimeoutError
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = self._new()
        try:
            return as_automaton(worker.table(*key, seconds))
        finally:
            self._idle.put(worker)

    def _new(self) -> ConstraintWorker:
        vocab = self._generator.decoder.model.config.vocab_size
        worker = ConstraintWorker(spelled_tokens(self._generator.need_tokenizer(), vocab))
        self._workers.append(worker)
        return worker
