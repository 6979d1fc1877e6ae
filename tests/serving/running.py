"""A server on this machine, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel
from jaxft.serving.server import Server

TOKEN = "a-token-of-these-tests"


@contextlib.contextmanager
def running(model: ServedModel, limits: Limits, token: str | None = None) -> Iterator[str]:
    """The address of a server."""
    server = Server(model, limits, token)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
