"""What clouds and clusters call the accelerators of a job."""

from __future__ import annotations

from jaxft.errors import RecipeError
from jaxft.launching.job import Hardware

# Cloud TPU: its types, how many of their units a chip has, runtime versions.
_CLOUD_TPUS = {
    "v4": ("v4", 2, "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e"),
}

# GKE: labels of nodes.
_GKE_TPUS = {
    "v4": "tpu-v4-podslice", "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}  # fmt: skip
_GKE_GPUS = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}

# XPK 1.16: its kinds, and of those wired in three dimensions how many cubes of 4x4x4 a slice has at most, and how many
# chips along an axis.
_XPK_TPUS = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e", "tpu7x": "tpu7x"}
_XPK_CUBES = {"v4": 64, "v5p": 140, "tpu7x": 144}
_XPK_SIDE = 256
_XPK_GPUS = {"h100": "h100-80gb-8", "h200": "h200-141gb-8"}


def cloud_tpu(target: str, hardware: Hardware, instead: str = "") -> tuple[str, str]:
    """The type of a slice as Cloud TPU names it, like `v5litepod-16`, and the version of its runtime.

    Args:
      target: that asks.
      hardware: what for.
      instead: what the message of an error adds.

    Raises:
      RecipeError: Cloud TPU has no such chips.
    """
    if hardware.kind not in _CLOUD_TPUS:
        raise RecipeError(f"{target} has {', '.join(_CLOUD_TPUS)}{instead}; --topology says {hardware.kind}")
    kind, units, runtime = _CLOUD_TPUS[hardware.kind]
    return f"{kind}-{hardware.chips * units}", runtime


def gke_labels(hardware: Hardware) -> dict[str, str]:
    """The labels of GKE's nodes that have it."""
    if not hardware.is_tpu:
        return {"cloud.google.com/gke-accelerator": _GKE_GPUS[hardware.kind]}
    return {
        "cloud.google.com/gke-tpu-accelerator": _GKE_TPUS[hardware.kind],
        "cloud.google.com/gke-tpu-topology": "x".join(map(str, hardware.shape)),
    }


def xpk_words(hardware: Hardware) -> tuple[str, ...]:
    """The words of `xpk workload create` that ask for it.

    TPUs are named by their shape: of several with as many chips, a number of them would mean whichever XPK lists first.

    Raises:
      RecipeError: XPK has no such machines.
    """
    if not hardware.is_tpu:
        if hardware.chips % 8:
            raise RecipeError(
                f"xpk does not know {hardware.name}: it has {hardware.kind} in machines of 8, like "
                f"{hardware.kind}-8 or {hardware.kind}-16"
            )
        return f"--device-type={_XPK_GPUS[hardware.kind]}", f"--num-nodes={hardware.hosts}"
    shape = hardware.shape
    if hardware.kind == "v5e" and hardware.chips < 8:
        raise RecipeError(f"xpk does not know {hardware.name}: its smallest of v5e is v5e:2x4")
    if len(shape) == 3 and (hardware.chips > 64 * _XPK_CUBES[hardware.kind] or max(shape) > _XPK_SIDE):
        raise RecipeError(
            f"xpk does not know {hardware.name}: of {hardware.kind} it has at most {64 * _XPK_CUBES[hardware.kind]} "
            f"chips, {_XPK_SIDE} along an axis"
        )
    if len(shape) == 3 and hardware.kind != "v4" and hardware.chips >= 64 and list(shape) != sorted(shape):
        ordered = "x".join(map(str, sorted(shape)))
        raise RecipeError(f"xpk does not know {hardware.name}; the same slice is {hardware.kind}:{ordered} there")
    return f"--tpu-type={_XPK_TPUS[hardware.kind]}-{'x'.join(map(str, shape))}", f"--num-slices={hardware.slices}"
