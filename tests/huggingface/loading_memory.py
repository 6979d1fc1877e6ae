"""Loads a model and prints the peak of resident memory while it did, and before, in bytes, as JSON.

Started by `test_reading_shards.py`, since a process's peak never falls.
"""

from __future__ import annotations

import json
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp

from jaxft.huggingface.description import describe
from jaxft.huggingface.importing import PIECE, load_parameters
from jaxft.models.model import sharded_target
from jaxft.parallel.mesh import MeshConfig


def peak() -> int:
    """The largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(directory: pathlib.Path, dtype: str) -> None:
    description = describe(directory)
    target = sharded_target(description.make_model(), dtype, MeshConfig())
    # What the backend itself takes is not the loading's.
    jax.block_until_ready(jnp.ones((8, 8)) @ jnp.ones((8, 8)))
    before = peak()
    parameters = jax.block_until_ready(load_parameters(description, target))
    held = sum(array.nbytes for array in jax.tree.leaves(parameters))
    largest = max(array.nbytes for array in jax.tree.leaves(parameters))
    print(json.dumps({"before": before, "peak": peak(), "held": held, "largest": largest, "piece": PIECE}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
