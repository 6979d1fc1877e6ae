"""A function that several processes compute, its results in the order of what they are of."""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import multiprocessing.context
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxft.errors import JaxftError
from jaxft.extension.loading import Plugin, check_unchanged, load_again, loaded
from jaxft.parallel.parent import end_with_parent

_function_of_worker: Callable[[Any], Any] | None = None


def _start_worker(plugins: tuple[Plugin, ...], function: bytes) -> None:
    global _function_of_worker
    end_with_parent()
    # Ctrl-C reaches every process of a terminal; whoever reads the results decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The processes are as many as there are cores, so that none of them needs threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    load_again(plugins)
    _function_of_worker = pickle.loads(function)


def _compute(item: Any) -> Any:
    assert _function_of_worker is not None  # each process begins with it
    return _function_of_worker(item)


@contextlib.contextmanager
def mapped_in_order(
    function: Callable[[Any], Any], workers: int, ahead: int
) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Gives a function like `map(function, items)`.

    Args:
      function: of one item; sent to the processes once.
      workers: processes; 0 computes here.
      ahead: items that each process may be ahead of who reads the results.

    Raises:
      RecipeError: a plug-in whose code the processes need has changed since it was loaded.
      JaxftError: the processes cannot be started, or one of them was killed.
    """
    if not workers:
        yield lambda items: map(function, items)
        return
    check_unchanged()
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    # In two steps, as what is sent may be of a plug-in, which must be loaded before it can be read.
    arguments = (loaded(), pickle.dumps(function))
    with _pool(workers, context, arguments) as pool:

        def results(items: Iterable[Any]) -> Iterator[Any]:
            pending: collections.deque[concurrent.futures.Future] = collections.deque()
            for item in items:
                pending.append(pool.submit(_compute, item))
                if len(pending) > ahead * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield results
        except concurrent.futures.process.BrokenProcessPool as error:
            raise JaxftError(f"one of {workers} worker processes was killed, or ran out of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(
    workers: int, context: multiprocessing.context.SpawnContext, arguments: tuple
) -> concurrent.futures.ProcessPoolExecutor:
    try:
        return concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, arguments)
    except OSError as error:  # without /dev/shm, or without another file to open
        raise JaxftError(
            f"{workers} worker processes cannot be started ({error.strerror}); use none: data.workers=0, or --workers 0"
        ) from error
