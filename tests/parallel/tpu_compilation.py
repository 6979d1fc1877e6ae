"""Compiles a train step for eight TPU v5e chips and prints what the compiler made of it, as JSON.

Started by `test_tpu_compilation.py`.
"""

from __future__ import annotations

import collections
import json
import math
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from support.two_heads import MaskedLMWithoutText

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.parallel.sharding import batch_sharding
from jaxft.recipe.presets import PRESETS
from jaxft.training.balance import ClipConfig
from jaxft.training.optimizer import OptimizerConfig, make_optimizer
from jaxft.training.schedule import ScheduleConfig, make_schedule
from jaxft.training.state import abstract_state
from jaxft.training.step import make_train_step

ROWS, LENGTH, PLACES = 16, 128, 24
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all")


def batch_structs(mesh) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {
        **dict.fromkeys(("token_ids", "segment_ids", "positions"), ((ROWS, LENGTH), jnp.int32)),
        **dict.fromkeys(("gather", "labels"), ((ROWS, PLACES), jnp.int32)),
        "label_weights": ((ROWS, PLACES), jnp.float32),
        "row_weight": ((ROWS,), jnp.float32),
    }
    return {
        n: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh)) for n, (shape, dtype) in shapes.items()
    }


def main() -> None:
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), devices=topology.devices)
    fields = {**PRESETS["encoder-small"], "embed_dim": 512, "mlp_dim": 2048, "vocab_size": 8192, "dropout": 0.1}
    compute = ComputeConfig("bfloat16", scan_layers=True, remat="full")
    model = Model(ModelConfig(**fields), (("masked_lm", HeadConfig("masked_lm")),), compute)
    schedule = make_schedule(ScheduleConfig(), 1e-3, 100)
    optimizer = make_optimizer(OptimizerConfig(), schedule, *abstract_parameters(model), frozenset({"masked_lm"}))
    state = abstract_state(model, optimizer, mesh)
    step = make_train_step(model, {"text": MaskedLMWithoutText()}, {"text": 1.0}, optimizer, schedule, ClipConfig())
    with jax.set_mesh(mesh):
        lowered = jax.jit(step, donate_argnums=0).lower(state, {"text": batch_structs(mesh)})
    compiled = lowered.compile()
    program, memory = compiled.as_text(), compiled.memory_analysis()
    products = re.findall(r"dot_general .* : \(tensor<[0-9x]*(\w+)>, tensor<[0-9x]*(\w+)>\)", lowered.as_text())
    told = {
        "collectives": {kind: len(re.findall(rf" {kind}(?:-start)?\(", program)) for kind in COLLECTIVES},
        "argument_bytes": memory.argument_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "state_bytes": sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "products": collections.Counter(" ".join(operands) for operands in products),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
