"""What a machine offers to jaxft."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import jax

from jaxft.data.cache import cache_directory
from jaxft.workflows.runs.software import versions

_EXTRAS = {
    "tensorboard": "tensorboardX", "wandb": "wandb", "tpu": "libtpu", "parquet": "pyarrow", "hf-datasets": "datasets",
    "tfds": "tensorflow_datasets", "zstd": "zstandard", "images": "PIL", "metrics": "sacrebleu", "cloud": "gcsfs",
    "test": "torch",
}  # fmt: skip


def examine() -> dict[str, str]:
    """Versions, devices, directories and optional packages, each as a line of text."""
    found = {"jaxft": importlib.metadata.version("jaxft"), "python": platform.python_version()}
    found |= versions()
    found["devices"] = ", ".join(f"{device.platform} {device.device_kind}" for device in jax.devices())
    found["cores"] = str(os.cpu_count())
    found["cache"] = str(cache_directory())
    for extra, module in _EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        found[f"extra {extra}"] = "installed" if there else f"not installed: pip install 'jaxft[{extra}]'"
    return found
