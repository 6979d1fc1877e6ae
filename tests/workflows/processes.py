"""Runs of the command line as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def start(*words: str) -> subprocess.Popen:
    """Starts `jaxft` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxft", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def finish(*words: str) -> str:
    """Runs `jaxft` to its end and returns its standard output."""
    process = start(*words)
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 0, err
    return out
