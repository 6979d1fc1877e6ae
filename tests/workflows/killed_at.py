"""Runs a command that is killed where it calls a function for the n-th time.

python killed_at.py MODULE:NAME N WORDS...
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys

from jaxft.cli.main import main


def kill_at(place: str, number: int) -> None:
    """Puts a kill before a function's `number`-th call."""
    module, _, path = place.partition(":")
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, importlib.import_module(module))
    function, calls = getattr(owner, name), iter(range(1, number + 1))

    @functools.wraps(function)
    def killed(*args, **kwargs):
        if next(calls, None) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, killed)


if __name__ == "__main__":
    kill_at(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[3:])
