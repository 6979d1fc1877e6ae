"""Loads a model onto one and onto eight devices and prints how the results compare, as JSON.

Started by `test_reading_shards.py` with XLA_FLAGS=--xla_force_host_platform_device_count=8, since the number of a
process's devices is fixed once JAX runs.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import numpy as np

from jaxft.huggingface.description import describe
from jaxft.huggingface.loaded import load_model
from jaxft.huggingface.safetensors_files import StoredTensor
from jaxft.models.model import abstract_parameters, flat_paths
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import parameter_shardings

MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=4, tensor=2),
    "fsdp-tensor": MeshConfig(data=1, fsdp=4, tensor=2),
    "mixed": MeshConfig(data=2, fsdp=2, tensor=2),
}


def loaded_with_bytes(directory: pathlib.Path, mesh, dtype: str = "float32"):
    """The parameters by path, and the bytes that were read from the files."""
    counts, read = [], StoredTensor._rows

    def counted(self, first, last, width):
        result = read(self, first, last, width)
        counts.append(result.nbytes)
        return result

    StoredTensor._rows = counted
    try:
        loaded = load_model(directory, dtype, mesh)
    finally:
        StoredTensor._rows = read
    return flat_paths(loaded.params), sum(counts)


def main(directory: pathlib.Path) -> None:
    description = describe(directory)
    shapes, axes = abstract_parameters(description.make_model())
    one = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    whole, bytes_of_one = loaded_with_bytes(directory, one)
    told = {"devices": jax.device_count(), "meshes": {"one": {"bytes": bytes_of_one}}}
    for name, config in MESHES.items():
        mesh = make_mesh(config)
        wanted = flat_paths(parameter_shardings(axes, shapes, mesh))
        found, count = loaded_with_bytes(directory, mesh)
        told["meshes"][name] = {
            "bytes": count,
            "same_names": found.keys() == whole.keys(),
            "different": [path for path in whole if not np.array_equal(found[path], whole[path])],
            "elsewhere": [path for path in whole if found[path].sharding != wanted[path]],
            "split": sum(not array.is_fully_replicated for array in found.values()),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
