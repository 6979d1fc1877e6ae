"""The server: listens, and ends in good order when it is told to."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import threading
from collections.abc import Generator

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from jaxft.serving.app import app_of
from jaxft.serving.connections import Connection, Connections
from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel
from jaxft.serving.service import Service

# After the time for requests to end: for their last words to be sent.
_LAST_WORDS_SECONDS = 2


class Server(uvicorn.Server):
    """Answers requests about a model until it is interrupted.

    SIGTERM and Ctrl-C end it: it takes nothing new, what is being written has `Limits.drain_seconds` to end, and what
    has not is told so. A second Ctrl-C ends it at once.

    Args:
      model: what it can do.
      limits: of requests, of connections and of what is worked on at once.
      token: that clients must show, or None.
      host: address that is listened on.
      port: likewise, where no socket is handed to `run`.
    """

    def __init__(
        self, model: ServedModel, limits: Limits, token: str | None = None, host: str = "127.0.0.1", port: int = 0
    ):
        self._service, self._limits = Service(model, limits), limits
        config = uvicorn.Config(
            app_of(self._service, token, host),
            host,
            port,
            # A class to uvicorn, which calls it with what a connection needs.
            http=functools.partial(Connection, Connections(limits)),  # type: ignore[arg-type]
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=int(limits.drain_seconds) + _LAST_WORDS_SECONDS,
            server_header=False,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn has it."""
        self._service.end_within(self._limits.drain_seconds)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn has it, but that a signal is not raised again once the server has ended: that was its work."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
