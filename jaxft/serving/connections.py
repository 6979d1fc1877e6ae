"""Connections: how long they may take to say what they want, and how many there may be of one address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from jaxft.serving.errors import ApiError
from jaxft.serving.limits import Limits

# For an answer to be read, beyond the request's own time.
_READING_SECONDS = 60.0


class Connections:
    """Those that are open. Where there are too many, the oldest that has asked for nothing makes room for a new one.

    Args:
      limits: of the server.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        # In the order of their arrival.
        self._open: dict[Connection, str] = {}

    def admit(self, connection: Connection, address: str) -> bool:
        """Whether there is room for one."""
        of_address = [one for one, other in self._open.items() if other == address]
        crowd: Iterable[Connection] | None = None
        if len(of_address) >= self.limits.connections_per_address:
            crowd = of_address
        elif len(self._open) >= self.limits.connections:
            crowd = list(self._open)
        if crowd is not None:
            silent = next((one for one in crowd if one.is_silent), None)
            if silent is None:
                return False
            self.leave(silent)
            silent.abort()
        self._open[connection] = address
        return True

    def leave(self, connection: Connection) -> None:
        """One has ended."""
        self._open.pop(connection, None)


class Connection(H11Protocol):
    """One connection, with limits of its own before anything is read.

    Args:
      connections: those that it is among.
      arguments: of uvicorn's.
    """

    def __init__(self, connections: Connections, **arguments: Any):
        super().__init__(**arguments)
        self._among = connections
        self._timer: asyncio.TimerHandle | None = None
        # Whether an answer is done and nothing has come since.
        self._is_idle = False

    @property
    def is_silent(self) -> bool:
        """Whether it has no request that is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Ends it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio has it."""
        super().connection_made(transport)
        # Other machines by their address; a proxy's clients are one.
        if not self._among.admit(self, self.client[0] if self.client else ""):
            transport.abort()
            return
        self._within(self._among.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._unset()
        self._among.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        before, was_idle = self.cycle, self._is_idle
        super().data_received(data)
        if self.cycle is not before and not self.is_silent:
            self._answers()
        elif was_idle:
            self._is_idle = False
            self._within(self._among.limits.header_seconds)

    def on_response_complete(self) -> None:
        """As uvicorn has it."""
        super().on_response_complete()
        if not self.is_silent:  # the next request was there already
            self._answers()
            return
        self._is_idle = True
        self._within(_READING_SECONDS)

    def _answers(self) -> None:
        """It has asked: from now on the request's own limits hold, and this one where nobody reads the answer."""
        limits = self._among.limits
        self._is_idle = False
        self._within(limits.body_seconds + limits.time_limit + _READING_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the form of other errors."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is on its way
            self.transport.close()
            return
        body = json.dumps(ApiError(400, "the request is not HTTP that can be read").body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _within(self, seconds: float) -> None:
        self._unset()
        self._timer = self.loop.call_later(seconds, self.abort)

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
