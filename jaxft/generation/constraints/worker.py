"""A process that makes tables of constraints for others, and is stopped where one takes too long or too much memory.

Nothing of JAX is imported here, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from jaxft.errors import JaxftError, RecipeError
from jaxft.generation.constraints.token_table import TokenTable, constraint_table

# Of addresses: the largest automata that are followed take less than half of it.
_MOST_MEMORY = 2 << 30
# So long a process that has just been started may take until it listens.
_START_SECONDS = 60.0


class ConstraintWorker:
    """Makes one table after the other; to be used by one thread at a time.

    Args:
      tokens: what each token of the vocabulary writes; None for those that may not come.
    """

    def __init__(self, tokens: Sequence[bytes | None]):
        self._tokens = list(tokens)
        self._process: subprocess.Popen | None = None
        self._channel: Connection | None = None

    def table(self, name: str, text: str, seconds: float) -> TokenTable:
        """The table of a constraint; see `constraint_table`.

        Raises:
          RecipeError: it can't be followed, or not made within `seconds` and the memory that there is for it.
        """
        try:
            channel = self._channel or self._started()
            channel.send((name, text, seconds))
            answer = channel.recv() if channel.poll(seconds) else None
        except (EOFError, OSError):  # it has ended
            answer = None
        if answer is None:
            self.close()
            raise RecipeError(
                f"{name}: takes more than the {seconds:.3g} s or the memory that there is for it; use smaller bounds "
                "of repetitions, or fewer of them"
            )
        if isinstance(answer, str):
            raise RecipeError(answer)
        return answer

    def kill(self) -> None:
        """Ends the process, whatever it does; from any thread."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends the process and what was kept of it."""
        self.kill()
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None

    def _started(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            # One thread does all, and others would reserve memory.
            given = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._channel = Connection(ours.detach())
        self._channel.send(self._tokens)
        if not self._channel.poll(_START_SECONDS):
            raise EOFError
        self._channel.recv()
        return self._channel


def _work(channel: Connection) -> None:
    """Answers until nobody asks any more."""
    tokens = channel.recv()
    # Ctrl-C in a terminal is for who asks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    channel.send("ready")
    while True:
        name, text, seconds = channel.recv()
        # Ends it by itself where who asks is gone.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            answer: TokenTable | str = constraint_table(name, text, tokens)
        except JaxftError as error:
            answer = str(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.send(answer)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, OSError, MemoryError):
        _work(Connection(int(sys.argv[1])))
