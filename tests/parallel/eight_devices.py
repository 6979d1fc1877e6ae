"""Trains a tiny two-stream model on several meshes of eight devices and prints what came out, as JSON.

Started by `test_eight_devices.py` with XLA_FLAGS=--xla_force_host_platform_device_count=8, since the number of a
process's devices is fixed once JAX runs.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import optax
from support.two_heads import HEADS, make_batches, objectives, small_model

from jaxft.finetuning.naming import parameter_names
from jaxft.models import layers
from jaxft.models.config import ComputeConfig
from jaxft.models.model import abstract_parameters
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import put_batch
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.schedule import ScheduleConfig, make_schedule
from jaxft.training.state import create_state
from jaxft.training.step import make_train_step

ROWS, STEPS = 16, 3
MESHES = {
    "one": {"data": 1},
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 4, "tensor": 2},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
    "context": {"data": 2, "tensor": 2, "context": 2},
}
# Mesh, dropout, number of micro-batches, and parts of the loss.
RUNS = [(mesh, 0.3, 1, 1) for mesh in MESHES] + [("one", 0.0, 1, 1), ("one", 0.0, 2, 1), ("mixed", 0.0, 2, 1)]
RUNS += [(mesh, 0.0, 1, 2) for mesh in ("fsdp", "mixed", "context")]


def train(mesh_name: str, dropout: float, micro_batches: int, loss_parts: int):
    """Losses and gradient norms of each step, and the last state."""
    config = MeshConfig(**MESHES[mesh_name])
    mesh = make_mesh(config, jax.devices()[:1] if mesh_name == "one" else None)
    compute = ComputeConfig(scan_layers=True, loss_parts=loss_parts)
    model = small_model(compute, dropout, num_heads=4, dropout=dropout, attention_dropout=dropout)
    schedule = make_schedule(ScheduleConfig("constant", warmup=0), 1e-2, STEPS)
    # A large epsilon, so that gradients that are zero but for rounding do not become full steps.
    settings = OptimizerConfig(learning_rate=1e-2, epsilon=1e-3)
    optimizer = make_optimizer(settings, schedule, *abstract_parameters(model), HEADS)
    state = create_state(model, optimizer, 7, mesh)
    step = make_train_step(
        model, objectives(dropout), {"replay": 0.5, "task": 1.0}, optimizer, schedule, ClipConfig(1.0), micro_batches
    )
    compiled = jax.jit(step, donate_argnums=0)
    seen = []
    with jax.set_mesh(mesh):
        for number in range(STEPS):
            batches = {name: put_batch(batch, mesh) for name, batch in make_batches(number, ROWS).items()}
            state, metrics = compiled(state, batches)
            seen.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
    return seen, state, batches


def shard_shapes(tree) -> dict[str, list]:
    """By parameter: its shape, and the shape of what one device holds."""
    return {
        name: [list(leaf.shape), list(leaf.sharding.shard_shape(leaf.shape))]
        for name, leaf in zip(parameter_names(tree), jax.tree.leaves(tree), strict=True)
    }


def main() -> None:
    # As wide models do, whose devices have each enough features of the table.
    layers._FEWEST_COLUMNS = 1
    results = []
    for mesh_name, dropout, micro_batches, loss_parts in RUNS:
        print(mesh_name, dropout, micro_batches, loss_parts, file=sys.stderr, flush=True)
        seen, state, batches = train(mesh_name, dropout, micro_batches, loss_parts)
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.parameters)]
        result = {"mesh": mesh_name, "dropout": dropout, "micro_batches": micro_batches}
        result |= {"loss_parts": loss_parts, "seen": seen}
        result["parameters"] = np.concatenate(leaves).tolist()
        result["shards"] = shard_shapes(state.parameters)
        result["moment_shards"] = shard_shapes(optax.tree.get(state.optimizer, "mu"))
        result["batch_shards"] = shard_shapes(batches["task"])
        results.append(result)
    json.dump({"devices": len(jax.devices()), "runs": results}, sys.stdout)


if __name__ == "__main__":
    main()
