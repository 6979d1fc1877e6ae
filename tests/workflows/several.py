"""Several processes of one run on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from support.processes import environment


def free_port() -> int:
    """A port with a free one behind it, most likely."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(
    count: int, *words: str, devices: int = 1, of_last: tuple[str, ...] = ()
) -> Iterator[list[subprocess.Popen]]:
    """Starts `jaxft` as so many processes with so many devices each; those that are left are killed at the end.

    Args:
      count: processes.
      words: of the command of each.
      devices: of each.
      of_last: further words of the last process.
    """
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count), "--start-timeout", "120")
    commands = [
        ["-m", "jaxft", *words, *(of_last if index + 1 == count else ()), *where, "--index", str(index)]
        for index in range(count)
    ]
    with _running(commands, devices) as processes:
        yield processes


@contextlib.contextmanager
def scripted(count: int, script: pathlib.Path, *words: str) -> Iterator[list[subprocess.Popen]]:
    """As `started`, of a script that is given a port, the number of processes, its own, and the words."""
    port = str(free_port())
    with _running([[str(script), port, str(count), str(index), *words] for index in range(count)], 1) as processes:
        yield processes


@contextlib.contextmanager
def _running(commands: list[list[str]], devices: int) -> Iterator[list[subprocess.Popen]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = environment(devices)
    processes = [subprocess.Popen([sys.executable, *command], env=own, **pipes) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


SRUN = """#!/bin/bash
# Stands in for SLURM's: starts the command twice, tells each where it is, and notes their numbers.
while [[ "$1" == --* ]]; do shift; done
export SLURM_JOB_ID=@JOB@ SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2
for index in 0 1; do
  SLURM_PROCID=$index SLURM_LOCALID=$index "$@" >out.$index 2>err.$index &
  echo $! >>pids
done
status=0
for pid in $(cat pids); do wait "$pid" || status=$?; done
exit $status
"""


def slurm_tools(directory: pathlib.Path) -> str:
    """Makes `srun`, `scontrol` and `jaxft`; the path to find them, before all others, on."""
    directory.mkdir()
    tools = {
        "srun": SRUN.replace("@JOB@", str(free_port())),
        "scontrol": '#!/bin/bash\necho "$@" >>scontrol.calls\n',
        "jaxft": f'#!/bin/bash\nexec {sys.executable} -m jaxft "$@"\n',
    }
    for name, text in tools.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


def ended(processes: list[subprocess.Popen], timeout: float = 30) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each; fails where one does not end in time."""
    deadline, told = time.monotonic() + timeout, []
    for process in processes:
        out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        told.append((process.returncode, out, err))
    return told


def wait_for_step(directory: pathlib.Path, step: int, processes: list[subprocess.Popen]) -> None:
    """Waits until the metrics of a run tell of this step."""
    metrics = directory / "metrics.jsonl"
    while True:
        rows = metrics.read_text().splitlines() if metrics.exists() else []
        if any(json.loads(row)["step"] >= step for row in rows if row.endswith("}")):
            return
        if any(process.poll() is not None for process in processes):
            raise AssertionError([process.communicate() for process in processes])
        time.sleep(0.02)
