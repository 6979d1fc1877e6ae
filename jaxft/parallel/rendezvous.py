"""How the processes of a run find each other before JAX starts.

JAX ends a process on the spot, with a stack of C++, where its coordinator does not answer. Here everybody is waited
for, and who is missing is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

from jaxft.errors import JaxftError, RecipeError
from jaxft.parallel.channel import Channel, Member
from jaxft.parallel.link import Link

# What somebody may take to say who it is, and how many may be about it at a time.
_HELLO_SECONDS, _HELLO_BYTES, _MOST_CALLERS = 5.0, 4096, 256
_TICK = 0.5
# By so much the first process is given the lead in saying who is missing.
_LEAD_SECONDS = 5.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run.

    Attributes:
      host: of the first process.
      port: there; JAX's own service takes the next one, or a free one where that is taken.
      count: processes of the run.
      index: of this one.
      local_devices: numbers of the devices of its machine that are its own; all where None.
    """

    host: str
    port: int
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None

    @property
    def is_on_loopback(self) -> bool:
        """Whether all processes are on one machine, and its port open to no other."""
        return self.host in _LOOPBACK


def meet(place: Place, timeout: float) -> tuple[Channel, int]:
    """Waits for all processes of a run.

    Args:
      place: of this one.
      timeout: seconds.

    Returns:
      The channel between them, and the port for JAX's coordinator on the host of the first.

    Raises:
      RecipeError: the processes were started with different words.
      JaxftError: not all came in time.
    """
    deadline = time.monotonic() + timeout
    own = Member(place.index, place.count, socket.gethostname(), os.getpid())
    if place.index == 0:
        members, links = _gathered(place, own, deadline, timeout)
        port = _free_port(place)
        for link in links.values():
            _sent(link, {"members": [dataclasses.astuple(member) for member in members], "port": port})
        return Channel(members, 0, links), port
    link, members, port = _joined(place, own, deadline, timeout)
    return Channel(members, place.index, {0: link}), port


# --- The first process ---


def _gathered(place: Place, own: Member, deadline: float, timeout: float) -> tuple[tuple[Member, ...], dict[int, Link]]:
    """All members, and links to the others."""
    members = {0: own}
    links: dict[int, Link] = {}
    with _listening(place) as listener, contextlib.closing(_Callers(listener)) as callers:
        while len(members) < place.count:
            if (left := deadline - time.monotonic()) <= 0:
                missing = ", ".join(str(index) for index in range(place.count) if index not in members)
                reason = f"{len(members)} of {place.count} processes came within {timeout:.0f} s; missing: {missing}"
                raise _refused(links, JaxftError(reason))
            for member, link in callers.heard(left):
                if (problem := _misfit(member, members, place)) is not None:
                    raise _refused({**links, -1: link}, RecipeError(problem))
                members[member.index], links[member.index] = member, link
    return tuple(members[index] for index in range(place.count)), links


class _Callers:
    """Those who came and have not said yet who they are: anybody may, so that each has little time and few bytes.

    They are heard side by side, so that nobody waits behind one that says nothing.
    """

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._deadlines: dict[Link, float] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def heard(self, seconds: float) -> list[tuple[Member, Link]]:
        """Those who have said who they are by now; waits a little for them, and `seconds` at most."""
        found = []
        for key, _ in self._selector.select(min(seconds, _TICK)):
            if key.data is None:
                self._accept()
            elif key.data in self._deadlines and (member := self._hello(key.data)) is not None:
                self._forget(key.data)
                found.append((member, key.data))
        now = time.monotonic()
        for link in [link for link, deadline in self._deadlines.items() if deadline < now]:
            self._drop(link)
        return found

    def close(self) -> None:
        """Lets go of all that are left."""
        for link in list(self._deadlines):
            self._drop(link)
        self._selector.close()

    def _accept(self) -> None:
        if len(self._deadlines) >= _MOST_CALLERS:
            self._drop(next(iter(self._deadlines)))
        with contextlib.suppress(OSError):  # it has gone again, or there are no more files to open
            connection, _ = self._listener.accept()
            link = Link(connection)
            self._selector.register(connection, selectors.EVENT_READ, link)
            self._deadlines[link] = time.monotonic() + _HELLO_SECONDS

    def _hello(self, link: Link) -> Member | None:
        """Who is there, once that is said whole; somebody else is let go."""
        try:
            link.read()
            message = link.next_message(_HELLO_BYTES)
            return None if message is None else _member(message.get("jaxft"))
        except (OSError, EOFError, ValueError):
            self._drop(link)
            return None

    def _forget(self, link: Link) -> None:
        self._selector.unregister(link.connection)
        del self._deadlines[link]

    def _drop(self, link: Link) -> None:
        self._forget(link)
        link.close()


def _member(received: Any) -> Member:
    """A member as `dataclasses.astuple` gives it.

    Raises:
      ValueError: it is none.
    """
    if not isinstance(received, list) or [type(value) for value in received] != [int, int, str, int]:
        raise ValueError("no member of a run")
    return Member(*received)


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    try:
        if place.is_on_loopback:
            family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
            listener = socket.create_server((place.host, place.port), family=family, backlog=1024)
        elif socket.has_dualstack_ipv6():
            listener = socket.create_server(("", place.port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
        else:
            listener = socket.create_server(("", place.port), backlog=1024)
    except OSError as error:
        problem = f"process 0 cannot listen on port {place.port}: {error.strerror or error}"
        raise JaxftError(f"{problem}; choose another with --coordinator") from None
    with listener:
        yield listener


def _misfit(member: Member, members: dict[int, Member], place: Place) -> str | None:
    if member.count != place.count:
        return f"{member.name} was started with another number of processes than process 0, which has {place.count}"
    if not 0 < member.index < place.count:
        return f"{member.name}: its index lies outside of 0 to {place.count - 1}"
    if member.index in members:
        return f"two processes have the index {member.index}: {members[member.index].name} and {member.name}"
    return None


def _refused(links: dict[int, Link], error: JaxftError) -> JaxftError:
    """Tells those who came why the run does not begin."""
    for link in links.values():
        _sent(link, {"refused": str(error), "status": error.exit_status})
        link.close()
    return error


def _sent(link: Link, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        link.send(message)


def _free_port(place: Place) -> int:
    """The port after that of the channel, which networks can be opened for, or any that is free."""
    host = place.host if place.is_on_loopback else ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (place.port + 1, 0):
        with contextlib.suppress(OSError, OverflowError), socket.create_server((host, port), family=family) as probe:
            return probe.getsockname()[1]
    raise JaxftError("process 0 has no free port")


# --- The others ---


def _joined(place: Place, own: Member, deadline: float, timeout: float) -> tuple[Link, tuple[Member, ...], int]:
    """A link to the first process, all members, and the port for JAX, which it said once all were there."""
    where, problem = f"{place.host}:{place.port}", "it does not answer"
    while (left := deadline - time.monotonic()) > 0:
        link = None
        try:
            link = Link(socket.create_connection((place.host, place.port), timeout=min(left, 10)))
            link.send({"jaxft": dataclasses.astuple(own)})
            # The first process has waited as long before it gives up, and says so.
            return link, *_answer(link.receive(max(1.0, deadline - time.monotonic()) + _LEAD_SECONDS), place)
        except EOFError:
            problem = "it closed the connection"
        except ValueError:
            problem = "what answers is not jaxft"
        except OSError as error:
            problem = error.strerror or str(error)
        if link is not None:
            link.close()
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
    raise JaxftError(
        f"process {place.index} of {place.count} found no coordinator at {where} within {timeout:.0f} s: {problem}. "
        "Is process 0 running there, and the port open?"
    )


def _answer(message: dict[str, Any], place: Place) -> tuple[tuple[Member, ...], int]:
    """What the first process said: the members and the port.

    Raises:
      RecipeError, JaxftError: it refused.
      ValueError: it is none.
    """
    if isinstance(refusal := message.get("refused"), str):
        raise (RecipeError if message.get("status") == RecipeError.exit_status else JaxftError)(refusal)
    members, port = message.get("members"), message.get("port")
    if not isinstance(members, list) or len(members) != place.count or not isinstance(port, int):
        raise ValueError("no answer of a first process")
    return tuple(_member(one) for one in members), port
