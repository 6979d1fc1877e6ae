"""Choice of the accelerator before JAX starts its backends."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator

# Not TPU_SKIP_MDS_QUERY: importing JAX sets it where there is no TPU.
_TPU_ENVIRONMENT = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES")
_GOOGLE_PCI_VENDOR = "0x1ae0"
# Of the vector memory of these kinds of devices, what a product may take. More brings no fewer cycles on v5p, and
# doubles the time of compiling again.
_PRODUCT_KIB = {"TPU v5": 32768, "TPU v6 lite": 98304, "TPU7x": 65536}
_PLANNED: contextvars.ContextVar[str | None] = contextvars.ContextVar("planned", default=None)


def tpu_present() -> bool:
    """Whether this machine shows signs of a TPU: a PCI device of Google's or the variables of a TPU VM."""
    if any(os.environ.get(name) for name in _TPU_ENVIRONMENT):
        return True
    for vendor in pathlib.Path("/sys/bus/pci/devices").glob("*/vendor"):
        try:
            device = vendor.with_name("device").read_text().strip()
            # Google's network card (0x0042) is in every Google machine and says nothing about a TPU.
            if vendor.read_text().strip() == _GOOGLE_PCI_VENDOR and device != "0x0042":
                return True
        except OSError:
            continue
    return False


def choose_platform() -> None:
    """Keeps JAX from probing for a TPU where libtpu is installed (for ahead-of-time compilation) but no TPU is.

    The probe asks a metadata server and prints alarming lines. Does nothing where the user chose a platform,
    where libtpu is not installed, or where a TPU or a CUDA plugin may be used.
    """
    if os.environ.get("JAX_PLATFORMS") or importlib.util.find_spec("libtpu") is None or tpu_present():
        return
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
    """What is traced within is for such devices, although they are not here and nothing will run on them.

    Args:
      platform: `cpu`, `gpu` or `tpu`.
    """
    token = _PLANNED.set(platform)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def only_planned() -> bool:
    """Whether what is traced now will run nowhere (see `planned_for`)."""
    return _PLANNED.get() is not None


def target_platform() -> str:
    """What a program that is traced now will run on: `cpu`, `gpu` or `tpu`.

    The devices of the mesh in use, which may be elsewhere and only be compiled for, or else those that are planned for
    or those of this process.
    """
    import jax  # not before `choose_platform`

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
        return _PLANNED.get() or jax.default_backend()
    return "gpu" if mesh.abstract_device.platform in ("cuda", "rocm") else mesh.abstract_device.platform


def step_options(platform: str, kind: str) -> dict[str, str]:
    """Options of the compiler for train steps.

    On TPUs, parameters are gathered before the products that read them: the compiler's own choice, to send them in
    parts while products of parts go on, has more instructions than it saves (1.7 times as many cycles by its own
    account, for a Llama of 1.2B on v5e 4x4 with libtpu 0.0.41). On the larger chips products may take more of the
    memory that lies beside the matrix units, which its own choice feeds too slowly: 1.2 times as many cycles for Llama
    8B on v5p, 1.4 times on v6e. It compiles twice as long for that. What the user's `LIBTPU_INIT_ARGS` name is left to
    them.

    Args:
      platform: of a device, such as `tpu`.
      kind: of the device, as JAX names it.
    """
    if platform != "tpu":
        return {}
    options = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
    if kind in _PRODUCT_KIB:
        options["xla_tpu_scoped_vmem_limit_kib"] = str(_PRODUCT_KIB[kind])
    asked = os.environ.get("LIBTPU_INIT_ARGS", "")
    return {name: value for name, value in options.items() if name not in asked}


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
