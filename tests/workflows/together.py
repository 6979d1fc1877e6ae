"""Runs commands of jaxft one after the other as one of several processes, which starts them once for all.

    python together.py PORT COUNT INDEX DIRECTORY COMMANDS

Each process has a working directory of its own, which is called like its index, in `DIRECTORY`. `COMMANDS` is JSON:
lists of words. Prints the exit status of each at the end, to standard error.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

from jaxft.cli.main import run
from jaxft.parallel.processes import ProcessesConfig, joined, leave


def main(port: str, count: str, index: str, directory: str, commands: str) -> None:
    """As one of `count` processes."""
    own = pathlib.Path(directory, index)
    own.mkdir(parents=True)
    os.chdir(own)
    with joined(ProcessesConfig(f"127.0.0.1:{port}", int(count), int(index), start_timeout=120)):
        found = [run(words) for words in json.loads(commands)]
    print(json.dumps(found), file=sys.stderr)
    leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
