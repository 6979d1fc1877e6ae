"""Compiles train steps of small recipes of every family for hundreds of TPU chips and prints what came out, as JSON.

Started by `test_large_topologies.py`: the compiler of TPUs stays loaded where it was once called.
"""

from __future__ import annotations

import json
import math
import pathlib
import sys

import jax

from jaxft.parallel.mesh import make_mesh
from jaxft.planning.program_cost import program_cost
from jaxft.planning.topology import parse_topology
from jaxft.recipe.library import load_recipe
from jaxft.workflows.plan.blueprint import make_blueprint
from jaxft.workflows.plan.compilation import topology_devices
from jaxft.workflows.plan.formulas import make_sketch

RECIPE = """
name: {name}
model: {{preset: {preset}, embed_dim: 256, num_layers: 3, num_heads: 4, mlp_dim: 512, max_length: {length}}}
tokenizer: {{train: {{vocab_size: 1024, sentinels: {sentinels}}}}}
streams:
  text: {{source: {{jsonl: text.jsonl}}, objective: {{kind: {objective}, length: {length}}}, batch_size: {rows}}}
training: {{steps: 10, precision: bfloat16, scan_layers: true, remat: {remat}, reduce_dtype: {reduce_dtype}}}
mesh: {mesh}
"""
SHARDED = {
    "topology": "v5e:16x16", "slices": 1, "mesh": "{data: 1, fsdp: -1}", "length": 512, "rows": 256, "sentinels": 0,
    "remat": "attention", "reduce_dtype": "float32",
}  # fmt: skip
CASES = {
    "encoder": {
        **SHARDED, "topology": "v5e:8x16", "slices": 2, "preset": "encoder-tiny", "objective": "masked_lm",
        "mesh": "{data: 2, fsdp: 128}", "remat": "none",
    },
    "decoder": {
        **SHARDED, "preset": "decoder-tiny", "objective": "causal_lm", "mesh": "{data: 16, fsdp: 8, tensor: 2}"
    },
    "encoder-decoder": {
        **SHARDED, "preset": "encoder-decoder-tiny", "objective": "span_corruption", "sentinels": 100, "remat": "dots",
        "reduce_dtype": "bfloat16",
    },
    "context": {
        **SHARDED, "topology": "v5p:4x4x8", "preset": "decoder-tiny", "objective": "causal_lm", "length": 2048,
        "rows": 32, "mesh": "{data: 1, fsdp: 32, context: 4}",
    },
}  # fmt: skip


def compiled(name: str, directory: pathlib.Path) -> dict:
    case = CASES[name]
    path = directory / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, **case), encoding="utf-8")
    recipe, document = load_recipe(path)
    topology = parse_topology(case["topology"], case["slices"])
    devices = topology_devices(topology)
    mesh = make_mesh(recipe.mesh, devices)
    blueprint = make_blueprint(recipe, document, mesh)
    program = blueprint.lowered().compile()
    cost = program_cost(program.as_text())
    parameters = jax.tree.leaves(blueprint.state.parameters)
    return {
        "devices": len(devices),
        # Of each index of the axis `data`; where there is one slice, devices do not tell.
        "slices": [sorted({one.slice_index for one in part.flat}) for part in mesh.devices if topology.slices > 1],
        "collectives": cost.by_kind(),
        "formula_bytes": make_sketch(recipe, document, topology).memory.total,
        "kernels": sum(cost.kernels.values()),
        "unknown_loops": cost.unknown_loops,
        "gathered": [one.bytes for one in cost.collectives.values() if one.kind == "all-gather"],
        "scattered": sum(one.sent for one in cost.collectives.values() if one.kind.startswith("reduce-scatter")),
        "largest_parameter": max(math.prod(leaf.shape) for leaf in parameters),
        "parameters": sum(math.prod(leaf.shape) for leaf in parameters),
        "tokens": case["rows"] * case["length"],
        "argument_bytes": program.memory_analysis().argument_size_in_bytes,
        "peak_bytes": program.memory_analysis().peak_memory_in_bytes,
    }


def main() -> None:
    json.dump({name: compiled(name, pathlib.Path(sys.argv[1])) for name in CASES}, sys.stdout)


if __name__ == "__main__":
    main()
