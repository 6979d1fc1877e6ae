"""The thread that owns the device: requests with the same options share a batch, batches take turns."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxft.generation.automaton import Automaton
from jaxft.generation.config import GenerationConfig, PromptOptions
from jaxft.generation.generator import Generator
from jaxft.generation.texts import TextDelta
from jaxft.parallel.trees import Parameters
from jaxft.serving.errors import ApiError
from jaxft.serving.limits import Limits
from jaxft.serving.metrics import Metrics

_logger = logging.getLogger("jaxft")

# So long an idle device waits for a second request to share the first one's batch.
_COMPANY_SECONDS = 0.004
# Tokens between two looks at who has left, at other batches and at new requests.
_STEPS = 4

# So long the end of the server waits for the device: a step is short, but a program may just be compiled for it.
_CLOSING_SECONDS = 5.0

# Does jobs of one key, and gives others a turn at each `yield`.
Runner = Callable[[Sequence["Job"]], Iterator[None]]


@dataclasses.dataclass(eq=False)
class Job:
    """What a request has to be done on the device.

    Attributes:
      key: jobs with the same key may share a batch.
      texts: rows that it takes.
      runner: what does such jobs.
      work: what the runner needs to know of this one.
      deadline: of `time.monotonic`.
      events: what the runner tells of it; at the end `None`, or an exception.
    """

    key: Hashable
    texts: int
    runner: Runner
    work: Any
    deadline: float
    events: asyncio.Queue = dataclasses.field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = dataclasses.field(default_factory=asyncio.get_running_loop)
    _left: threading.Event = dataclasses.field(default_factory=threading.Event)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self._left.set()

    def is_withdrawn(self) -> bool:
        """Whether nobody waits for it, or its time is up."""
        return self._left.is_set() or time.monotonic() > self.deadline

    def tell(self, event: Any) -> None:
        """Hands an event to the request, from the device's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


@dataclasses.dataclass
class _Batch:
    """Jobs that are done together."""

    jobs: list[Job]
    steps: Iterator[None]

    @property
    def texts(self) -> int:
        """Rows of the batch."""
        return sum(job.texts for job in self.jobs)


class Engine:
    """Takes jobs and does them in one thread.

    Args:
      limits: of the server.
      metrics: that it counts in.
    """

    def __init__(self, limits: Limits, metrics: Metrics):
        self._limits, self._metrics = limits, metrics
        self._waiting: list[Job] = []
        self._working: list[_Batch] = []
        self._changed = threading.Condition()
        self._is_closed = self._is_draining = False
        self._open: set[Job] = set()
        self._thread = threading.Thread(target=self._work, name="jaxft-device", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends it after the step that is being computed, for which it waits a while."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self.is_alive:
            self._thread.join(_CLOSING_SECONDS)

    def drain(self) -> None:
        """Does what it has, and takes no more."""
        self._is_draining = True

    def abandon(self) -> None:
        """Tells all that is not done that the server ends; the device goes no further than its next look."""
        with self._changed:
            for job in self._open:
                job.leave()
                job.tell(_ending())

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being done."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Has a job done.

        Raises:
          ApiError: too many wait already.
        """
        with self._changed:
            if self._is_closed or self._is_draining or not self.is_alive:
                raise _ending()
            waiting = sum(one.texts for one in self._waiting)
            if waiting + job.texts > self._limits.queue:
                raise ApiError(
                    429,
                    f"{waiting} texts wait already, and the queue holds {self._limits.queue}; ask again later",
                    code="queue_full",
                    retry=True,
                )
            self._waiting.append(job)
            self._open.add(job)
            self._metrics.waiting.set(waiting + job.texts)
            self._changed.notify()

    def withdraw(self, job: Job) -> None:
        """Frees the place of a job whose client has left or whose time is up."""
        job.leave()
        with self._changed:
            self._open.discard(job)
            if job in self._waiting:
                self._waiting.remove(job)
                self._metrics.waiting.set(sum(one.texts for one in self._waiting))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._working or self._is_closed):
                    self._changed.wait()
                if self._is_closed:
                    break
                is_idle = not self._working
            if is_idle:
                time.sleep(_COMPANY_SECONDS)
            self._admit()
            for batch in list(self._working):
                self._step(batch)
            self._metrics.working.set(sum(batch.texts for batch in self._working))
        for job in [*self._waiting, *(job for batch in self._working for job in batch.jobs)]:
            job.tell(_ending())

    def _admit(self) -> None:
        """Begins batches of the jobs that have waited longest, and of others like them."""
        while len(self._working) < self._limits.batches:
            with self._changed:
                jobs = self._next_jobs()
                self._waiting = [job for job in self._waiting if job not in jobs and not job.is_withdrawn()]
                self._metrics.waiting.set(sum(one.texts for one in self._waiting))
            if not jobs:
                return
            self._working.append(_Batch(jobs, jobs[0].runner(jobs)))
            self._metrics.batches.observe(self._working[-1].texts)

    def _next_jobs(self) -> list[Job]:
        chosen: list[Job] = []
        texts = 0
        for job in self._waiting:
            fits = not chosen or (job.key == chosen[0].key and texts + job.texts <= self._limits.batch_size)
            if fits and not job.is_withdrawn():
                chosen.append(job)
                texts += job.texts
        return chosen

    def _step(self, batch: _Batch) -> None:
        """Goes on with a batch for a while."""
        try:
            next(batch.steps)
            return
        except StopIteration:
            end = None
        except Exception as error:  # one request's defect must not end the server
            _logger.exception("a batch of %d requests failed", len(batch.jobs))
            end = error
        self._working.remove(batch)
        for job in batch.jobs:
            job.tell(end)


def _ending() -> ApiError:
    return ApiError(503, "the server is ending; ask again later", code="server_ending", retry=True)


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """Prompts that are written on, with one configuration.

    Attributes:
      prompts: int32 `(length,)` each.
      config: of all of them.
      automaton: of its constraint, or None.
    """

    prompts: Sequence[np.ndarray]
    config: GenerationConfig
    automaton: Automaton | None = None


def writes(generator: Generator, parameters: Parameters) -> Runner:
    """What writes; it tells `TextDelta`s whose prompts are numbered as in their own request."""

    def run(jobs: Sequence[Job]) -> Iterator[None]:
        owners = [(job, number) for job in jobs for number in range(len(job.work.prompts))]
        prompt_options = [
            dataclasses.replace(PromptOptions.of(job.work.config, number), is_withdrawn=job.is_withdrawn)
            for job, number in owners
        ]
        longest = max(options.max_new_tokens for options in prompt_options)
        config = dataclasses.replace(jobs[0].work.config, max_new_tokens=longest)
        prompts = [prompt for job in jobs for prompt in job.work.prompts]
        automaton = jobs[0].work.automaton
        for pieces in generator.stream(parameters, prompts, config, _STEPS, prompt_options, automaton):
            for piece in pieces:
                job, number = owners[piece.prompt]
                job.tell(dataclasses.replace(piece, prompt=number))
            yield

    return run


def searches(generator: Generator, parameters: Parameters) -> Runner:
    """What searches with beams; it tells one `TextDelta` for each text."""

    def run(jobs: Sequence[Job]) -> Iterator[None]:
        for job in jobs:
            copies: dict[int, int] = {}
            work = job.work
            for one in generator.generate(parameters, work.prompts, work.config, automaton=work.automaton):
                copy = copies[one.prompt] = copies.get(one.prompt, -1) + 1
                unknown = np.full(len(one.token_ids), np.nan, np.float32)
                job.tell(TextDelta(one.prompt, copy, one.token_ids, one.text, unknown, one.finished_by))
            yield

    return run


def scores(generator: Generator, parameters: Parameters, top: int) -> Runner:
    """What says how likely the tokens of prompts are; it tells a list of `Score`s, None of a prompt of one token."""

    def run(jobs: Sequence[Job]) -> Iterator[None]:
        prompts = [prompt for job in jobs for prompt in job.work.prompts]
        longer = [prompt for prompt in prompts if len(prompt) > 1]
        found = iter(
            generator.score(parameters, [one[:1] for one in longer], [one[1:] for one in longer], top) if longer else ()
        )
        for job in jobs:
            job.tell([next(found) if len(prompt) > 1 else None for prompt in job.work.prompts])
        yield

    return run


def reads(read: Callable[[Sequence[Any]], Sequence[Any]]) -> Runner:
    """What reads texts all at once; it tells a list of what it says of them.

    Args:
      read: from the texts of several jobs to what is said of each.
    """

    def run(jobs: Sequence[Job]) -> Iterator[None]:
        found = iter(read([text for job in jobs for text in job.work]))
        for job in jobs:
            job.tell([next(found) for _ in job.work])
        yield

    return run
