"""Computes losses and gradients of models whose sequences eight devices share, and prints them as JSON.

Started by `test_context_on_eight_devices.py` with eight devices.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, initialize
from jaxft.models.transformer import Sequences
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import put_batch
from jaxft.training.step import bind

VOCABULARY, LENGTH, ROWS = 32, 512, 4
SHARED = {"data": 1, "fsdp": 2, "tensor": 2, "context": 2}
MODELS = {
    "decoder": {"family": "decoder", "position": "rotary", "num_kv_heads": 2, "windows": (40, 0)},
    "encoder": {"family": "encoder", "position": "rotary", "windows": (40, 0)},
    "encoder_decoder": {"family": "encoder_decoder", "position": "relative_bias"},
}
# Model, mesh, kernel, and parts of the loss, some of which do not divide the tokens.
RUNS = [(model, {"data": 1}, "reference", 1) for model in MODELS]
RUNS += [(model, SHARED, "auto", parts) for model, parts in zip(MODELS, (3, 1, 2), strict=True)]
RUNS += [
    ("decoder", SHARED, "splash", 1),
    ("decoder", {"data": 2, "context": 4}, "splash", 5),
    ("encoder", SHARED, "splash", 2),
]


def make_batch() -> dict[str, np.ndarray]:
    """Packed and padded rows."""
    generator = np.random.default_rng(0)
    segments = np.ones((ROWS, LENGTH), np.int32)
    segments[:, 200:], segments[:2, -40:] = 2, 0
    starts = np.where(segments == 2, 200, 0)
    return {
        "token_ids": generator.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32),
        "segment_ids": segments,
        "positions": (np.arange(LENGTH) - starts).astype(np.int32),
    }


def main() -> None:
    results = []
    for name, axes, kernel, parts in RUNS:
        print(name, axes, kernel, parts, file=sys.stderr, flush=True)
        config = ModelConfig(
            vocab_size=VOCABULARY,
            embed_dim=16,
            num_layers=2,
            num_heads=4,
            mlp_dim=16,
            max_length=LENGTH,
            initializer_range=0.3,
            **MODELS[name],
        )
        compute = ComputeConfig(attention=kernel, scan_layers=True, loss_parts=parts)
        model = Model(config, (("head", HeadConfig("causal_lm")),), compute)
        parameters = jax.jit(lambda model=model: initialize(model, jax.random.key(0)))()

        def loss(parameters, batch, model=model, config=config):
            sequences = Sequences(**batch)
            targets = sequences if config.family == "encoder_decoder" else None
            weights = (batch["segment_ids"] > 0) * jnp.linspace(0.2, 1.0, LENGTH)
            labels = (batch["token_ids"] * 7 + 3) % VOCABULARY
            return bind(model, parameters).token_sums(labels, weights, "head", sequences, targets)[0] / weights.sum()

        count = int(np.prod(list(axes.values())))
        mesh = make_mesh(MeshConfig(**axes), jax.devices()[:count])
        with jax.set_mesh(mesh):
            batch = put_batch(make_batch(), mesh)
            value, gradient = jax.jit(jax.value_and_grad(loss))(jax.device_get(parameters), batch)
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)]
        results.append(
            {
                "model": name,
                "context": axes.get("context", 1),
                "kernel": kernel,
                "loss": float(value),
                "gradient": np.concatenate(leaves).tolist(),
            }
        )
    json.dump({"devices": len(jax.devices()), "runs": results}, sys.stdout)


if __name__ == "__main__":
    main()
