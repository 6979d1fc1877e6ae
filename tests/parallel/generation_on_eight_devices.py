"""Writes with a decoder and an encoder-decoder on several meshes of eight devices and prints the texts, as JSON.

Started by `test_generation_on_eight_devices.py`.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from support.drawn import draw_parameters

from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.controls import make_controls
from jaxft.generation.generator import Generator
from jaxft.generation.loop import begin
from jaxft.generation.prompts import batches_of
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import parameter_shardings

VOCABULARY = 32
SPECIAL = SpecialTokens(end=(0,), start=(1,))
MESHES = {
    "one": {"data": 1},
    "data": {"data": 8},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}
CONFIGS = {
    "greedy": GenerationConfig(max_new_tokens=8),
    "drawn": GenerationConfig(max_new_tokens=8, temperature=1.0, top_k=8, num_return_sequences=2),
    "beams": GenerationConfig(max_new_tokens=6, beams=2),
}
_SIZES = {"vocab_size": VOCABULARY, "embed_dim": 16, "num_layers": 2, "num_heads": 4, "mlp_dim": 32}
MODELS = {
    "decoder": ModelConfig(**_SIZES, family="decoder", num_kv_heads=2, windows=(3, 0)),
    "encoder_decoder": ModelConfig(**_SIZES, family="encoder_decoder", position="relative_bias"),
}


def main() -> None:
    prompts = [np.random.default_rng(n).integers(1, VOCABULARY, n).astype(np.int32) for n in (4, 7, 2, 5, 9, 3)]
    runs = []
    for family, config in MODELS.items():
        model = Model(config, (("causal_lm", HeadConfig("causal_lm")),))
        drawn = draw_parameters(model)
        for name, sizes in MESHES.items():
            if (family, name) == ("encoder_decoder", "data"):
                continue
            print(family, name, file=sys.stderr, flush=True)
            mesh = make_mesh(MeshConfig(**sizes), jax.devices()[:1] if name == "one" else None)
            shapes, axes = abstract_parameters(model)
            parameters = jax.device_put(drawn, parameter_shardings(axes, shapes, mesh))
            generator = Generator(model, SPECIAL, mesh=mesh, batch_size=8)
            texts = {
                kind: [one.token_ids.tolist() for one in generator.generate(parameters, prompts, how)]
                for kind, how in CONFIGS.items()
                if (family, kind) != ("encoder_decoder", "drawn")
            }
            (score,) = generator.score(parameters, prompts[:1], prompts[1:2])
            runs.append(
                {
                    "family": family,
                    "mesh": name,
                    "texts": texts,
                    "score": score.log_probabilities.tolist(),
                    "cache": cache_parts(generator, parameters, prompts, mesh),
                }
            )
    json.dump({"devices": len(jax.devices()), "runs": runs}, sys.stdout)


def cache_parts(generator: Generator, parameters, prompts, mesh: jax.sharding.Mesh) -> list[int]:
    """In how many parts each array of a cache lies."""
    config, on = GenerationConfig(max_new_tokens=8), None if mesh.size == 1 else mesh
    (batch,) = batches_of(prompts, generator.decoder.model.config, SPECIAL, [8] * len(prompts), 8, on)
    with jax.set_mesh(mesh):
        keys = jax.random.split(jax.random.key(0), 8)
        controls = make_controls(config, SPECIAL, VOCABULARY)
        state = begin(generator.decoder, parameters, batch.prompts, controls, batch.limits, keys, slots=batch.slots)
    leaves = jax.tree.leaves(state.cache.layers)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    return [leaf.size // int(np.prod(leaf.sharding.shard_shape(leaf.shape))) for leaf in leaves]


if __name__ == "__main__":
    main()
