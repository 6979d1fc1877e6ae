"""A job whose name and paths would harm whoever takes them for more than words."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

from jaxft.launching.job import Hardware, Job, Launch
from jaxft.launching.targets import TARGETS

# What a shell, YAML and Kubernetes would each act upon.
HOSTILE = 'it\'s "a" $(touch PWNED) `touch PWNED` & b; --x ${HOME} $(HOSTNAME)\n: *new\t\\'
TPU, GPU = Hardware("v5e", True, (4, 4), 16, 2), Hardware("h100", False, (16,), 16)
OPTIONS = {
    "tpu-vm": {"zone": "us-west4-a"}, "slurm": {"partition": "gpu", "time": "24:00:00"}, "xpk": {"cluster": "ours"},
}  # fmt: skip


def job_for(target: str, **changes) -> Job:
    values = {
        "name": HOSTILE,
        "recipe": f"name: {json.dumps(HOSTILE)}\n",
        "image": "registry/jaxft:1",
        "spot": True,
        "hardware": GPU if target == "slurm" else TPU,
        "storage": "gs://bucket/a directory",
        "pause": 0,
        "install": "jaxft[tpu] @ git+https://example.org/x#$(touch PWNED)",
        "secrets": {"TOKEN": "TOKEN"} if target in ("tpu-vm", "gke", "skypilot") else {},
    }
    if target == "skypilot":
        values["hardware"] = GPU
    if target in ("slurm", "gpu-host"):
        values["storage"] = "/a $(touch PWNED) 'b'"
    return Job(**{**values, **changes})


def launched(target: str, directory: pathlib.Path, options: Mapping[str, str] | None = None, **changes) -> Launch:
    """What is launched, its files written."""
    chosen = OPTIONS.get(target, {}) if options is None else options
    found = TARGETS[target].plan(job_for(target, **changes), directory, chosen)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in found.files.items():
        (directory / name).write_text(text)
    return found
