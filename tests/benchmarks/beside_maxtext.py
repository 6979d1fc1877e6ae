"""What jaxft's compiled train step asks of TPUs beside MaxText's, read from both programs by the same walker.

    python tests/benchmarks/beside_maxtext.py scale/llama-1b-2048 --topology v5e-16 --maxtext-python maxtext/bin/python

Both are compiled ahead of time for TPUs that are not here, for the same shapes, batch and remat. MaxText takes its own
defaults but for splash, its full remat, no dropout, and products in parts (windowed einsum) only if asked for.

MaxText 0.2.5 needs Python 3.12, and for compiling few of the packages that it names (what `ABSENT` has computes nothing
here). Its step compiles with an older jax than it asks for, so that both have the same compiler:

    python3.12 -m venv maxtext
    maxtext/bin/pip install jax==0.10.1 libtpu==0.0.41 flax==0.12.8 optax==0.2.8 orbax-checkpoint==0.12.8 absl-py numpy
    maxtext/bin/pip install pydantic omegaconf jaxtyping qwix transformers psutil grain sentencepiece jinja2 \\
        immutabledict typeguard==2.13.3
    maxtext/bin/pip install --no-deps maxtext==0.2.5 aqtp drjax ml_collections tokamax==0.0.14 einshape
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

import jaxft
from jaxft.errors import JaxftError, RecipeError
from jaxft.kernels.splash_tiles import Tiles
from jaxft.parallel.platform import choose_platform
from jaxft.planning.estimate import of_program
from jaxft.planning.kernels import KernelCall
from jaxft.planning.program_cost import program_cost
from jaxft.planning.topology import Topology, parse_topology
from jaxft.recipe.library import load_recipe
from jaxft.recipe.schema import Recipe
from jaxft.reporting.tables import text_table
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.plan.compilation import as_json
from jaxft.workflows.plan.formulas import make_sketch

WHOLE_PRODUCTS = "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
# Side of the tiles that MaxText's splash has by default.
TILE = 512
# Runs in MaxText's interpreter: settings, then where the program goes.
COMPILE = """
import importlib.abc, importlib.machinery, json, pathlib, sys, time
from unittest.mock import MagicMock

ABSENT = ("PIL", "datasets", "fastapi", "gcsfs", "google.api_core", "google.cloud", "pathwaysutils", "sympy",
          "tensorboardX", "tensorflow", "tiktoken", "xprof")

class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if any(name == one or name.startswith(one + ".") for one in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module
    def exec_module(self, module):
        pass

sys.meta_path.append(Stubs())
try:
    import maxtext.kernels.attention.jax_flash_attention
except ImportError:  # attention for other chips, which asks for a newer jax
    sys.modules["maxtext.kernels.attention.jax_flash_attention"] = MagicMock()
import jax
import maxtext
from maxtext.trainers.pre_train import train_compile

folder, whole = pathlib.Path(sys.argv[1]), jax.stages.Lowered.compile

def kept(lowered, *arguments, **options):
    started = time.perf_counter()
    program = whole(lowered, *arguments, **options)
    found = {"compile_seconds": time.perf_counter() - started,
             "peak_bytes": program.memory_analysis().peak_memory_in_bytes, "jax": jax.__version__}
    (folder / "program.hlo").write_text(program.as_text())
    (folder / "found.json").write_text(json.dumps(found))
    return program

jax.stages.Lowered.compile = kept
base = pathlib.Path(maxtext.__file__).parent / "configs" / "base.yml"
train_compile.main(["train_compile", str(base), *sys.argv[2:]])
"""


def settings_of(recipe: Recipe, assembly: Assembly, topology: Topology, windowed: bool) -> list[str]:
    """MaxText's settings for a recipe's step.

    Raises:
      RecipeError: it is not of a decoder like Llama's with one stream on one slice, split by `fsdp` alone.
    """
    config, training, streams = assembly.model.config, recipe.training, list(recipe.streams.values())
    alike = config.family == "decoder" and config.norm == "rmsnorm" and config.gated and config.position == "rotary"
    alike = alike and [stream.objective.kind for stream in streams] == ["causal_lm"]
    if not alike or (training.remat, training.precision) != ("full", "bfloat16"):
        raise RecipeError("compared are decoders like Llama's with a stream of causal_lm, in bfloat16, remat: full")
    if assembly.mesh.shape["fsdp"] != topology.chips or topology.chip.name not in ("v5e", "v6e"):
        raise RecipeError(f"compared are steps for v5e or v6e whose mesh.fsdp is all {topology.chips} chips")
    stream = streams[0]
    found = {
        "base_emb_dim": config.embed_dim,
        "base_mlp_dim": config.mlp_dim,
        "base_num_decoder_layers": config.num_layers,
        "base_num_query_heads": config.num_heads,
        "base_num_kv_heads": config.num_kv_heads or config.num_heads,
        "head_dim": config.width_of_head,
        "vocab_size": config.vocab_size,
        "logits_via_embedding": config.tied_embeddings,
        "normalize_embedding_logits": False,
        "rope_max_timescale": int(config.rotary_base),
        "normalization_layer_epsilon": config.norm_epsilon,
        "max_target_length": stream.objective.length,
        "per_device_batch_size": stream.batch_size / topology.chips,
        "compile_topology": f"{topology.chip.name}-{topology.chips}",
        "compile_topology_num_slices": 1,
        "attention": "flash",
        "remat_policy": "full",
        "scan_layers": True,
        "enable_dropout": False,
        "dataset_type": "synthetic",
        "enable_checkpointing": False,
        "skip_jax_distributed_system": True,
        "run_name": "plan",
        "compile_xla_flags": "" if windowed else WHOLE_PRODUCTS,
    }
    return [f"{name}={json.dumps(value) if isinstance(value, bool) else value}" for name, value in found.items()]


def maxtext_program(python: str, settings: list[str], length: int, keep: pathlib.Path | None) -> dict[str, Any]:
    """What MaxText's program asks for, as jaxft's plans have it."""
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        command = [python, "-c", COMPILE, name, *settings, f"base_output_directory={name}"]
        done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, check=False)
        if not (folder / "found.json").is_file():
            raise JaxftError(f"MaxText stopped with status {done.returncode}: {done.stderr.strip()[-2000:]}")
        found, text = json.loads((folder / "found.json").read_text()), (folder / "program.hlo").read_text()
    if keep:
        keep.write_text(text)
    # Of causal rows: which tiles its kernels compute does not stand in its program.
    blocks = -(-length // TILE)
    tiles = Tiles(blocks * (blocks + 1) // 2, TILE, TILE).name
    cost = program_cost(text.replace("vmap(jit(_splash_attention))", f"{tiles}/vmap(jit(_splash_attention))"))
    return {**found, "cost": as_json(cost)}


def column(cost: dict[str, Any], peak: int, seconds: float, topology: Topology) -> dict[str, str]:
    """One program's figures."""
    estimate = of_program(cost, topology)
    kernels = sum(KernelCall(**one["call"]).flops * one["times"] for one in cost["kernels"])
    runs = sum(one["times"] for one in cost["kernels"])
    found = {
        "peak, GiB": f"{peak / 2**30:.2f}",
        "products, TFLOP": f"{cost['matmul_flops'] / 1e12:.2f}",
        "cycles, s": f"{estimate.instructions:.4f}",
        "attention's kernels": f"{runs:.0f} times, {kernels / 1e12:.2f} TFLOP, {estimate.kernels:.4f} s",
        "read and written, GB": f"{cost['memory_bytes'] / 1e9:.1f}",
    }
    for kind, one in sorted(cost["collectives"].items()):
        found[f"{kind}, GB sent"] = f"{one['bytes'] / 1e9:.3f} in {one['count']:.0f}"
    sent = sum(one["bytes"] for one in cost["collectives"].values())
    found["all sent, GB"] = f"{sent / 1e9:.3f}"
    found["on an axis with nothing beside, GB"] = f"{cost['on_an_axis']['exposed'] / 1e9:.3f}"
    found["estimated step, s"] = f"{estimate.step:.4f}"
    return {**found, "compiled in, s": f"{seconds:.0f}", "loops of unknown length": str(cost["unknown_loops"])}


def compared(options: argparse.Namespace) -> str:
    """The table of both programs."""
    topology = parse_topology(options.topology, 1)
    recipe, document = load_recipe(options.recipe, options.overrides)
    assembly = make_sketch(recipe, document, topology).blueprint.assembly
    settings = settings_of(recipe, assembly, topology, options.windowed_einsum)
    length = next(iter(recipe.streams.values())).objective.length
    theirs = maxtext_program(options.maxtext_python, settings, length, options.keep)
    ours = jaxft.plan(options.recipe, options.overrides, topology=options.topology, again=True)
    columns = [
        column(ours["compiled"], ours["bytes_per_device"], ours["compile_seconds"], topology),
        column(theirs["cost"], theirs["peak_bytes"], theirs["compile_seconds"], topology),
    ]
    rows = [(name, *(one.get(name, "-") for one in columns)) for name in columns[1] | columns[0]]
    return text_table((f"{recipe.name} on {topology.name}", "jaxft", f"MaxText, jax {theirs['jax']}"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="like training.loss_parts=1")
    parser.add_argument("--topology", default="v5e-16")
    parser.add_argument("--maxtext-python", required=True, help="an interpreter with MaxText, see the top of this file")
    parser.add_argument("--windowed-einsum", action="store_true", help="MaxText's products in parts, its default")
    parser.add_argument("--keep", type=pathlib.Path, help="a file for MaxText's optimized program")
    options = parser.parse_args()
    choose_platform()
    if shutil.which(options.maxtext_python) is None:
        parser.error(f"--maxtext-python {options.maxtext_python}: there is no such interpreter")
    try:
        print(compared(options))
    except JaxftError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
