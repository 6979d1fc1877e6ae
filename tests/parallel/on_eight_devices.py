"""Runs a program where JAX has eight devices, whose number is fixed once a process has begun."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

from support.processes import environment

_HERE = pathlib.Path(__file__).parent


def told_by(program: str) -> Any:
    """What a program beside this file prints, from JSON."""
    command = [sys.executable, _HERE / program]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    # The partitioner's last resort: it gathers an activation whole on every device to lay it out anew.
    assert "Involuntary full rematerialization" not in done.stderr
    told = json.loads(done.stdout)
    assert told["devices"] == 8
    return told["runs"]
