"""Processes that tests start."""

from __future__ import annotations

import os
import pathlib

from support.compilation import xla_flags

_TESTS = pathlib.Path(__file__).parent.parent


def environment(devices: int = 1) -> dict[str, str]:
    """Of a program on so many devices of a CPU, which finds this package as the tests do."""
    path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(devices), "PYTHONPATH": path}
