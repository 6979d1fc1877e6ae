"""How XLA compiles what tests run."""

from __future__ import annotations

import importlib.metadata

# Programs of tests run for less long than they are compiled for: like this that takes an eighth of the time.
_QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
# A device waits 40 s for the others and then ends the process; many on few busy cores need longer.
_PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
# Fusions out of MLIR take longest. Later compilers know no others, and end a process that asks for them.
_WITHOUT_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def xla_flags(devices: int = 1) -> str:
    """XLA_FLAGS of a process with so many devices, quick to compile and slow to run."""
    flags = [_QUICK, _PATIENT, f"--xla_force_host_platform_device_count={devices}"]
    if tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:3]) < (0, 11, 1):
        flags.append(_WITHOUT_EMITTERS)
    return " ".join(flags)
