"""How the processes of a run find each other before JAX starts.

JAX ends a process on the spot, with a stack of C++, where its coordinator does not answer. Here everybody is waited
for, and who is missing is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from jaxft.errors import JaxftError, RecipeError
from jaxft.parallel.channel import Channel, Link, Member

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
    link, found = _joined(place, own, deadline, timeout)
    members = tuple(Member(*member) for member in found["members"])
    return Channel(members, place.index, {0: link}), found["port"]


# --- The first process ---


def _gathered(place: Place, own: Member, deadline: float, timeout: float) -> tuple[tuple[Member, ...], dict[int, Link]]:
    """All members, and links to the others."""
    members = {0: own}
    links: dict[int, Link] = {}
    with _listening(place) as listener:
        while len(members) < place.count:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = ", ".join(str(index) for index in range(place.count) if index not in members)
                reason = f"{len(members)} of {place.count} processes came within {timeout:.0f} s; missing: {missing}"
                raise _refused(links, JaxftError(reason)) from None
            link = Link(connection)
            if (member := _hello(link)) is None:
                link.close()
            elif (problem := _misfit(member, members, place)) is not None:
                raise _refused({**links, -1: link}, RecipeError(problem))
            else:
                members[member.index], links[member.index] = member, link
    return tuple(members[index] for index in range(place.count)), links


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


def _hello(link: Link) -> Member | None:
    """Who is there; None for somebody else who came to this port."""
    link.connection.settimeout(5)
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError, LookupError):
        member = Member(*link.receive()["jaxft"])
        if isinstance(member.index, int) and isinstance(member.count, int):
            return member
    return None


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


def _joined(place: Place, own: Member, deadline: float, timeout: float) -> tuple[Link, dict[str, Any]]:
    """A link to the first process, and what it said once all were there."""
    where, problem = f"{place.host}:{place.port}", "it does not answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = Link(socket.create_connection((place.host, place.port), timeout=min(left, 10)))
            link.send({"jaxft": dataclasses.astuple(own)})
            # The first process has waited as long before it gives up, and says so.
            link.connection.settimeout(max(1.0, deadline - time.monotonic()) + 5)
            message = link.receive()
            if "refused" in message:
                raise (RecipeError if message["status"] == RecipeError.exit_status else JaxftError)(message["refused"])
            if "members" in message:
                return link, message
            problem = "what answers is not jaxft"
        except EOFError:
            problem = "it closed the connection"
        except ValueError:
            problem = "what answers is not jaxft"
        except OSError as error:
            problem = error.strerror or str(error)
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
    raise JaxftError(
        f"process {place.index} of {place.count} found no coordinator at {where} within {timeout:.0f} s: {problem}. "
        "Is process 0 running there, and the port open?"
    )
