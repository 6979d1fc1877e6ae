"""The channel between the processes of a run, through which each learns what became of the others.

Plain TCP to the first process, open as long as the run lasts: the kernel closes it when a process ends, however that
ends. JAX's own service notices a lost process late and by its missing heartbeats alone, a stuck one never, and nobody
learns why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxft.parallel.link import Link

_TICK = 0.5
# How long those who are told of a failure may take to end.
_FAREWELL_SECONDS = 5.0
# By so much the first process is given the lead in saying who is stuck.
_GRACE_SECONDS = 6.0
_NUMBER = (int, float, type(None))
# What each kind of message must hold.
_HELD: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "failed": {"reason": str, "status": int},
    "bye": {},
    "give": {"round": int, "value": object},
    "all": {"round": int, "values": list},
    "mark": {"moves": int, "limit": _NUMBER},
    "stop": {"reason": str},
    "halt": {"reason": str},
    "at": {"step": int},
    "stop at": {"step": int},
}


@dataclasses.dataclass(frozen=True)
class Member:
    """A process of the run.

    Attributes:
      index: from 0; 0 is the first, which writes what a run leaves behind.
      count: of all processes.
      host: name of its machine.
      pid: there.
    """

    index: int
    count: int
    host: str
    pid: int

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"process {self.index} of {self.count} (pid {self.pid} on {self.host})"


class Channel:
    """This process's side of the channel.

    A thread reads it. What it finds out about another process's failure ends this process: the main thread may wait in
    a collective that never comes to its end.
    """

    def __init__(self, members: tuple[Member, ...], index: int, links: Mapping[int, Link]):
        """
        Args:
          members: all processes, by their index.
          index: of this one.
          links: to all others in the first process, to the first alone in the others.
        """
        self.members, self.index = members, index
        self._links = dict(links)
        self._changed = threading.Condition()
        self._round = 0
        self._given: dict[int, dict[int, Any]] = {}
        self._together: dict[int, list[Any]] = {}
        self._moves, self._moved_at = 0, time.monotonic()
        self._limit: float | None = None
        self._seen: dict[int, tuple[int, float | None, float]] = {
            member.index: (0, None, time.monotonic()) for member in members
        }
        self._step, self._stopping, self._halted = -1, False, False
        self._stop: str | None = None
        self._stop_step: int | None = None
        self._steps: dict[int, int] = {}
        self._failing: tuple[str, int] | None = None
        self._left = threading.Event()
        self._bye: set[int] = set()
        self._thread = threading.Thread(target=self._watch, name="channel", daemon=True)
        self._thread.start()

    @property
    def is_first(self) -> bool:
        """Whether this is the first process."""
        return self.index == 0

    # --- What the main thread asks ---

    def exchange(self, value: Any) -> list[Any]:
        """The values that all processes give, by index; waits for the last of them.

        Every process makes the same calls in the same order.

        Args:
          value: in JSON's terms.
        """
        with self._changed:
            number, self._round = self._round, self._round + 1
        self._tell({"kind": "give", "round": number, "value": value})
        with self._changed:
            while number not in self._together:
                self._changed.wait(1.0)
            return self._together.pop(number)

    def moved(self, limit: float | None) -> None:
        """Says that this process goes on, and how many seconds it may take at most until it says so again.

        Args:
          limit: None where nobody can tell.
        """
        with self._changed:
            self._moves, self._limit, self._moved_at = self._moves + 1, limit, time.monotonic()

    def ask_to_stop(self, reason: str) -> None:
        """Asks all processes to stop, each after the same step. May be called by a signal's handler.

        Once all are about to stop, for whatever reason, another one changes nothing.
        """
        with self._changed:
            if not self._stopping:
                self._stop = reason

    def reached(self, step: int) -> str | None:
        """Why all processes stop after this step, or None.

        Once one is asked to stop, each tells the step that it is at and makes no other until all have heard of the
        first that none has made.
        """
        with self._changed:
            while self._stopping and self._stop_step is None:
                self._changed.wait(1.0)
            if self._stop_step is not None and step >= self._stop_step:
                return self._stop
            self._step = step
            return None

    def fail(self, reason: str, status: int) -> None:
        """Tells the others that this process ends by an error, and waits until they have heard it.

        Args:
          reason: in words.
          status: the exit status of all.
        """
        with self._changed:
            self._failing = (reason, status)
        self._thread.join(2 * _FAREWELL_SECONDS)

    def close(self) -> None:
        """Leaves; all processes do so at their ends."""
        self._left.set()
        with contextlib.suppress(OSError):
            for link in self._links.values():
                link.send({"kind": "bye"})
        self._thread.join(2 * _TICK)

    # --- The thread ---

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, link in self._links.items():
                selector.register(link.connection, selectors.EVENT_READ, index)
            for index in self._links:  # what came along with the last words of the rendezvous
                self._attend(selector, index, lambda link: None)
            told, has_told = None, False
            while not self._left.is_set():
                for key, _ in selector.select(_TICK):
                    self._attend(selector, key.data, Link.read)
                with self._changed:
                    failing, stop, mark = self._failing, self._stop, (self._moves, self._limit)
                if failing is not None:
                    return self._farewell(selector, f"{self.members[self.index].name} failed: {failing[0]}", failing[1])
                if mark != told:
                    told = mark
                    self._tell({"kind": "mark", "moves": mark[0], "limit": mark[1]})
                if stop is not None and not has_told:
                    has_told = True
                    self._tell({"kind": "stop", "reason": stop})
                self._look_for_stuck(selector)

    def _attend(self, selector: selectors.BaseSelector, index: int, read: Callable[[Link], None]) -> None:
        """Reads a link and acts on its messages; ends all where it is lost or holds something else."""
        link = self._links[index]
        try:
            read(link)
            while (message := link.next_message()) is not None:
                _check(message)
                if message["kind"] == "failed":
                    self._down(selector, message["reason"], message["status"])
                self._take(index, message)
        except (EOFError, OSError, ValueError) as error:
            if index in self._bye or self._left.is_set():
                selector.unregister(link.connection)
                return
            how = "ended without a word: it was killed, or ran out of memory"
            if isinstance(error, ValueError):
                how = f"says what no process of a run says ({error})"
            elif isinstance(error, OSError) and not isinstance(error, ConnectionResetError):
                how = f"cannot be reached any more ({error})"
            self._down(selector, f"{self.members[index].name} {how}", 1)

    def _tell(self, message: dict[str, Any]) -> None:
        """Sends to the first process; in it, takes the message itself."""
        if self.is_first:
            return self._take(0, message)
        with contextlib.suppress(OSError):  # that it is gone is noticed where its messages are read
            self._links[0].send(message)

    def _tell_all(self, message: dict[str, Any]) -> None:
        """Sends from the first process to the others, and takes the message itself."""
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.send(message)
        self._take(0, message)

    def _take(self, index: int, message: dict[str, Any]) -> None:
        """Acts on a message from a process: of the first one, or to it."""
        kind = message["kind"]
        if kind == "bye":
            self._bye.add(index)
            self._seen.pop(index, None)
        elif kind == "give":
            self._collect(index, message)
        elif kind == "mark":
            self._seen[index] = (message["moves"], message["limit"], time.monotonic())
        elif kind == "stop":
            if not self._halted:
                self._halted = True
                self._tell_all({"kind": "halt", "reason": message["reason"]})
        elif kind == "halt":
            with self._changed:
                self._stop, self._stopping, step = message["reason"], True, self._step
            self._tell({"kind": "at", "step": step})
        elif kind == "at":
            self._steps[index] = message["step"]
            if len(self._steps) == len(self.members):
                self._tell_all({"kind": "stop at", "step": 1 + max(self._steps.values())})
        elif kind in ("stop at", "all"):
            with self._changed:
                if kind == "all":
                    self._together[message["round"]] = message["values"]
                else:
                    self._stop_step = message["step"]
                self._changed.notify_all()

    def _collect(self, index: int, message: dict[str, Any]) -> None:
        with self._changed:
            given = self._given.setdefault(message["round"], {})
            given[index] = message["value"]
            if len(given) < len(self.members):
                return
            del self._given[message["round"]]
        values = [given[member.index] for member in self.members]
        self._tell_all({"kind": "all", "round": message["round"], "values": values})

    def _look_for_stuck(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        with self._changed:
            limit, waited, moves = self._limit, now - self._moved_at, self._moves
        if not self.is_first:
            if limit is not None and waited > limit + _GRACE_SECONDS:
                silent = f"{self.members[0].name} does not say why"
                self._down(selector, f"nothing went on for {waited:.0f} s, and {silent}: it is stuck", 1)
            return
        self._seen[0] = (moves, limit, now - waited)
        overdue = [now - since for _, limit, since in self._seen.values() if limit is not None and now - since > limit]
        if not overdue:
            return
        fewest = min(moves for moves, _, _ in self._seen.values())
        behind = [self.members[index].name for index, (moves, _, _) in self._seen.items() if moves == fewest]
        if len(behind) == len(self._seen):
            reason = f"no process went on for {max(overdue):.0f} s"
        else:
            reason = f"{', '.join(behind)} did not go on for {max(overdue):.0f} s while the others waited"
        self._down(selector, f"{reason}: the run is stuck", 1)

    def _down(self, selector: selectors.BaseSelector, reason: str, status: int) -> None:
        """Ends this process, and as the first one all others before it."""
        self._say(reason)
        if self.is_first:
            self._farewell(selector, reason, status)
        end_now(status)

    def _farewell(self, selector: selectors.BaseSelector, reason: str, status: int) -> None:
        """Tells of a failure and reads on: the first process until all others have ended, they until it has heard.

        The first one ends last, since JAX's service ends with it, and with that, loudly, whoever is still there.
        """
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.send({"kind": "failed", "reason": reason, "status": status})
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(_TICK):
                link = self._links[key.data]
                try:
                    link.read()
                    while (message := link.next_message()) is not None:
                        if message.get("kind") == "failed" and not self.is_first:
                            return
                except (EOFError, OSError, ValueError):
                    selector.unregister(key.fileobj)

    @staticmethod
    def _say(reason: str) -> None:
        # Past Python's own files, whose locks a waiting thread may hold. A display may have hidden the cursor.
        shown = "\n\x1b[?25h" if os.isatty(2) else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{shown}jaxft: {reason}\n".encode())


def _check(message: Mapping[str, Any]) -> None:
    """Raises ValueError for a message of no known kind, or without what its kind must hold."""
    held = _HELD.get(kind) if isinstance(kind := message.get("kind"), str) else None
    if held is None:
        raise ValueError("a message of no known kind")
    for name, types in held.items():
        if name not in message or not isinstance(message[name], types):
            raise ValueError(f"{kind} without {name}")


def end_now(status: int) -> None:
    """Ends this process and those that it started, without waiting for any other to come along."""
    for child in multiprocessing.active_children():
        child.kill()
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            file.flush()
    os._exit(status)
