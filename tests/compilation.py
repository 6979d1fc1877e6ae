"""How XLA compiles what tests run."""

from __future__ import annotations

# Programs of tests run for less long than they are compiled for: like this that takes an eighth of the time.
_QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def xla_flags(devices: int = 1) -> str:
    """XLA_FLAGS of a process with so many devices, quick to compile and slow to run."""
    return f"{_QUICK} --xla_force_host_platform_device_count={devices}"
