"""A connection that carries messages, bounded in size and time, since anybody may be at its other side."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

# How long a message may take to be sent, and how long it may be: what processes exchange, texts among it, is smaller.
SEND_SECONDS = 20.0
MOST_BYTES = 1 << 30


class Link:
    """A connection that carries lines of JSON both ways."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(SEND_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that is gone closes nothing: it is missed after about 20 seconds.
        for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self.connection, self._sending = connection, threading.Lock()
        self._unread, self._searched = bytearray(), 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message.

        Raises:
          OSError: nobody reads it.
        """
        with self._sending:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> None:
        """Reads what has come, and waits for something.

        Raises:
          EOFError: the other side has ended.
          OSError: it is lost.
        """
        read = self.connection.recv(1 << 16)
        if not read:
            raise EOFError
        self._unread += read

    def next_message(self, most_bytes: int = MOST_BYTES) -> dict[str, Any] | None:
        """The first message that was read and not taken; None where none is complete.

        Args:
          most_bytes: that it may have.

        Raises:
          ValueError: the other side speaks of something else, or without an end.
        """
        end = self._unread.find(b"\n", self._searched)
        if max(end, len(self._unread) if end < 0 else 0) > most_bytes:
            raise ValueError(f"a message of more than {most_bytes} bytes")
        if end < 0:
            self._searched = len(self._unread)
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        self._searched = 0
        try:
            message = json.loads(line)
        except RecursionError:
            raise ValueError("a message nested too deep") from None
        if not isinstance(message, dict):
            raise ValueError("not a message")
        return message

    def receive(self, seconds: float) -> dict[str, Any]:
        """Waits for a message.

        Args:
          seconds: for all of it.

        Raises:
          TimeoutError: it did not come in time.
          EOFError, OSError, ValueError: as `read` and `next_message`.
        """
        deadline = time.monotonic() + seconds
        try:
            while (message := self.next_message()) is None:
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError("timed out")
                self.connection.settimeout(left)
                self.read()
        finally:
            self.connection.settimeout(SEND_SECONDS)
        return message

    def close(self) -> None:
        """Lets go of the connection."""
        self.connection.close()
