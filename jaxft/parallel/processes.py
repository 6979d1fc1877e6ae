"""The processes of a run: how they start, and what they do together.

Without a start there is one process, which is the first; then nothing here waits or costs anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from jaxft.errors import Interrupted, JaxftError
from jaxft.parallel.channel import Channel, end_now
from jaxft.parallel.environment import found_place
from jaxft.parallel.rendezvous import Place, meet

Value = TypeVar("Value")

# JAX's own watch over the processes, which sees less and says less than the channel, comes last.
_JAX_HEARTBEAT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    """How a process joins others, where its environment does not say it.

    Attributes:
      coordinator: `host:port` of the first process.
      count: processes of the run.
      index: of this one.
      start_timeout: seconds that all have to come.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    start_timeout: float = 300.0


@dataclasses.dataclass
class _Here:
    """What this process knows of the others; none before it joined them."""

    channel: Channel | None = None
    failed: bool = False


_here = _Here()


def start(config: ProcessesConfig = ProcessesConfig()) -> None:
    """Joins the processes of the run where the command or the environment says that there are several.

    Must come before anything that uses a device. From here on all but the first process are silent but for errors.

    Raises:
      RecipeError: the words or the environment do not say who this process is.
      JaxftError: the others did not come in time.
    """
    place = found_place(config.coordinator, config.count, config.index)
    if place is None or place.count == 1:
        return
    channel, port = meet(place, config.start_timeout)
    _here.channel = channel
    sys.excepthook = _end_by_defect
    channel.moved(config.start_timeout)
    _set_output_apart(channel.is_first)
    _initialize(place, port, config.start_timeout)
    channel.moved(None)
    if not channel.is_first:
        logging.getLogger("jaxft").setLevel(logging.ERROR)


def _set_output_apart(is_first: bool) -> None:
    """Keeps standard output for the results of the first process: libraries print there, past Python's own files."""
    sys.stdout.flush()
    if is_first:
        own = sys.stdout
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=own.encoding, errors=own.errors, buffering=1)
    else:
        sys.stdout = pathlib.Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    os.dup2(2, 1)


def _initialize(place: Place, port: int, timeout: float) -> None:
    import jax  # not before the others are there: it takes seconds

    host = f"[{place.host}]" if ":" in place.host else place.host
    # It would take SIGTERM for itself; what is to be done then is agreed on through the channel.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            f"{host}:{port}",
            place.count,
            place.index,
            local_device_ids=None if place.local_devices is None else list(place.local_devices),
            cluster_detection_method="deactivate",
            initialization_timeout=max(1, round(timeout)),
            heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
            coordinator_bind_address=f"{host}:{port}" if place.is_on_loopback else None,
        )
        # All processes bring their devices up together: later on, one might wait for another that waits for it.
        jax.devices()
    except RuntimeError as error:
        raise JaxftError(f"process {place.index} of {place.count} could not start JAX: {error}") from error


def _end_by_defect(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Shows a defect, and does not wait for the other processes as JAX would at the end of this one."""
    sys.__excepthook__(kind, error, traceback)
    failed(f"{kind.__name__}: {error}", 1)
    end_now(1)


def process_index() -> int:
    """Of this process."""
    return 0 if _here.channel is None else _here.channel.index


def process_count() -> int:
    """Of the run."""
    return 1 if _here.channel is None else len(_here.channel.members)


def is_first() -> bool:
    """Whether this process writes what the run leaves behind."""
    return process_index() == 0


def member_names() -> tuple[str, ...]:
    """What messages call the processes, by index."""
    return ("this process",) if _here.channel is None else tuple(one.name for one in _here.channel.members)


def gathered(value: Any) -> list[Any]:
    """The values of all processes by index, in JSON's terms; all processes call it in the same order."""
    return [value] if _here.channel is None else _here.channel.exchange(value)


def from_first(make: Callable[[], Value]) -> Value:
    """What the first process makes, in all of them; in JSON's terms where there are several.

    Numbers that a run goes by are the same everywhere then, whatever machines say of their last digits.
    """
    if _here.channel is None:
        return make()
    return _here.channel.exchange(make() if is_first() else None)[0]


def wait_for_all() -> None:
    """Waits until all processes are here."""
    gathered(None)


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """Lets the first process go ahead, and the others, all at once, when it is through.

    So that they find what it made where they share a file system, and make it themselves where they do not.
    """
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def moved(limit: float | None = None) -> None:
    """Says that this process goes on; it counts as stuck, and the run ends, after `limit` seconds without another word.

    All processes say it at the same places.
    """
    if _here.channel is not None:
        _here.channel.moved(limit)


def ask_to_stop(reason: str) -> None:
    """Asks all processes to stop after a step; may be called by a signal's handler. See `stop_reason`."""
    if _here.channel is not None:
        _here.channel.ask_to_stop(reason)


def stop_reason(step: int) -> str | None:
    """Why all processes stop after this very step, or None; of others that were asked, where there are several."""
    return None if _here.channel is None else _here.channel.reached(step)


def failed(reason: str, status: int) -> None:
    """Tells the other processes why this one ends, so that they end too; see `leave`."""
    if _here.channel is not None and not _here.failed:
        _here.failed = True
        _here.channel.fail(reason, status)


def leave(status: int) -> None:
    """Ends the process with this exit status.

    One of several that failed does not wait for the others, as JAX's own end would.
    """
    if _here.channel is not None:
        if _here.failed:
            end_now(status)
        _here.channel.close()
    sys.exit(status)


@contextlib.contextmanager
def joined(config: ProcessesConfig = ProcessesConfig()) -> Iterator[None]:
    """Runs a block as one of several processes; an error in one of them ends all.

    Raises:
      JaxftError: as `start`; and whatever the block raises, after the others have heard of it.
    """
    start(config)
    try:
        yield
        wait_for_all()
    except Interrupted:  # in all of them
        wait_for_all()
        raise
    except JaxftError as error:
        failed(str(error), error.exit_status)
        raise
    except KeyboardInterrupt:
        failed("interrupted by Ctrl-C", 1)
        raise
    except BaseException as error:
        failed(f"{type(error).__name__}: {error}", 1)
        raise
