"""Where jobs are launched, one module each; their templates lie in directories of the same names in `launch/`."""

from __future__ import annotations

from jaxft.launching.target import Target
from jaxft.launching.targets.docker import DOCKER
from jaxft.launching.targets.gke import GKE
from jaxft.launching.targets.gpu_host import GPU_HOST
from jaxft.launching.targets.skypilot import SKYPILOT
from jaxft.launching.targets.slurm import SLURM
from jaxft.launching.targets.tpu_vm import TPU_VM
from jaxft.launching.targets.xpk import XPK

TARGETS: dict[str, Target] = {
    "tpu-vm": TPU_VM, "gke": GKE, "xpk": XPK, "slurm": SLURM, "skypilot": SKYPILOT, "gpu-host": GPU_HOST,
    "docker": DOCKER,
}  # fmt: skip
