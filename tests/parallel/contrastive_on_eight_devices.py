"""Computes a contrastive loss and its gradient on one device and on meshes of eight, and prints them as JSON.

Started by `test_contrastive_on_eight_devices.py` with eight devices.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from support.settings import setting_of

from jaxft.models.config import ModelConfig
from jaxft.models.model import Model, initialize
from jaxft.objectives.contrastive import Contrastive, ContrastiveConfig
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import put_batch
from jaxft.training.step import bind

VOCABULARY, LENGTH, ROWS = 64, 8, 16
MESHES = {"one": {"data": 1}, "data": {"data": 8}, "mixed": {"data": 2, "fsdp": 2, "tensor": 2}}


def make_batch() -> dict[str, np.ndarray]:
    """Pairs of short sentences; rows of padding at the end, as in an evaluation."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, LENGTH + 1, (ROWS, 2, 1))
    return {
        "token_ids": generator.integers(0, VOCABULARY, (ROWS, 2, LENGTH)).astype(np.int32),
        "segment_ids": (np.arange(LENGTH) < sizes).astype(np.int32),
        "row_weight": (np.arange(ROWS) < ROWS - 3).astype(np.float32),
    }


def main() -> None:
    config = ModelConfig(
        vocab_size=VOCABULARY,
        embed_dim=16,
        num_layers=1,
        num_heads=4,
        mlp_dim=32,
        max_length=LENGTH,
        position="learned",
        dropout=0.2,
        initializer_range=0.2,
    )
    model, objective = Model(config), Contrastive(ContrastiveConfig(), setting_of(None, LENGTH))
    parameters = jax.jit(lambda: initialize(model, jax.random.key(0)))()

    def loss(parameters, batch):
        part = objective.loss(bind(model, parameters, jax.random.key(1)), batch)
        return part.loss / part.weight

    results = {}
    for name, axes in MESHES.items():
        mesh = make_mesh(MeshConfig(**axes), jax.devices()[:1] if name == "one" else None)
        with jax.set_mesh(mesh):
            batch = put_batch(make_batch(), mesh)
            value, gradient = jax.jit(jax.value_and_grad(loss))(jax.device_get(parameters), batch)
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)]
        shard = batch["token_ids"].sharding.shard_shape(batch["token_ids"].shape)
        results[name] = {"loss": float(value), "gradient": np.concatenate(leaves).tolist(), "rows": shard[0]}
    json.dump({"devices": len(jax.devices()), "runs": results}, sys.stdout)


if __name__ == "__main__":
    main()
