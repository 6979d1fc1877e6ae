"""Trains low-rank updates of a tiny model on several meshes of eight devices and prints what came out, as JSON."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import optax
from support.small_tuning import described, policy_of
from support.two_heads import HEADS, make_batches, objectives, small_model

from jaxft.finetuning.lora import LoraConfig, LoraModel, begun, merged, trained_names
from jaxft.models.model import initialize
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import put_batch
from jaxft.training.balance import BalanceConfig, ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.state import Keeping, create_state
from jaxft.training.step import make_train_step

MESHES = {"one": {"data": 1}, "fsdp": {"data": 1, "fsdp": 8}, "mixed": {"data": 2, "fsdp": 2, "tensor": 2}}
STEPS = 2


def train(mesh_name: str, config: LoraConfig) -> dict:
    """Losses of each step, and the merged parameters at the end."""
    mesh = make_mesh(MeshConfig(**MESHES[mesh_name]), jax.devices()[:1] if mesh_name == "one" else None)
    base = small_model()
    model = LoraModel(base, config)
    shapes, axes, _ = described(model)
    policy = policy_of(model, train_only=(*trained_names(config), "^head_"))
    settings = OptimizerConfig(learning_rate=1e-2, epsilon=1e-3)
    schedule = optax.constant_schedule(1e-2)
    optimizer = make_optimizer(settings, schedule, shapes, axes, HEADS, policy=policy)
    plain = jax.jit(lambda: initialize(base, jax.random.key(1)))()
    keeping = Keeping(trained=policy.trained)
    state = create_state(model, optimizer, 7, mesh, lambda fresh: begun(plain, fresh, axes, config), keeping)
    step = jax.jit(
        make_train_step(
            model,
            objectives(),
            {"task": 1.0, "replay": 0.5},
            optimizer,
            schedule,
            ClipConfig(1.0),
            balance=BalanceConfig("project"),
            trained=policy.trained,
        ),
        donate_argnums=0,
    )
    seen = []
    with jax.set_mesh(mesh):
        for number in range(STEPS):
            batches = {name: put_batch(batch, mesh) for name, batch in make_batches(number).items()}
            state, metrics = step(state, batches)
            seen.append(float(metrics["loss"]))
    whole = merged(state.parameters, axes, config)
    leaves = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(whole)])
    return {"mesh": mesh_name, "quantize": config.quantize, "seen": seen, "parameters": leaves.tolist()}


def main() -> None:
    runs = [
        train(mesh, LoraConfig(rank=2, dropout=0.1, dora=True, quantize=form))
        for form in ("none", "nf4")
        for mesh in (MESHES if form == "none" else ("one", "mixed"))
    ]
    json.dump({"devices": len(jax.devices()), "runs": runs}, sys.stdout)


if __name__ == "__main__":
    main()
