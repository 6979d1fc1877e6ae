"""Compiles the train step of a recipe for TPUs that are not here, in a process of its own.

The compiler of TPUs stays loaded where it was once called, and JAX chooses its devices once. So `compiled` starts
`python -m jaxft.workflows.plan.compilation`, which reads a request and writes what it found, as JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxft.data.cache import cache_directory
from jaxft.errors import JaxftError, RecipeError
from jaxft.parallel.mesh import make_mesh
from jaxft.planning.program_cost import ProgramCost, program_cost
from jaxft.planning.topology import Topology, parse_topology
from jaxft.recipe.library import load_recipe, recipe_to_text
from jaxft.recipe.plugins import plugin_digests
from jaxft.recipe.schema import Recipe
from jaxft.reporting.atomic import write_atomically
from jaxft.workflows.plan.blueprint import make_blueprint
from jaxft.workflows.runs.software import code_digest, versions

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compiled(
    recipe: str | pathlib.Path, overrides: Sequence[str], topology: Topology, again: bool = False
) -> dict[str, Any]:
    """What the compiler makes of a recipe's train step; remembered for the same recipe, devices and versions.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: like `training.seed=1`.
      topology: of TPUs.
      again: whether it is compiled also where the answer is known.

    Returns:
      `peak_bytes` of a device, `fits`, `compile_seconds`, and, where it fits, `cost` (`matmul_flops`, `cycles`,
      `memory_bytes`, `on_an_axis`, `between_slices`, `collectives`, `kernels`, `custom_calls`, `unknown_loops`).

    Raises:
      RecipeError: the compiler of TPUs is not installed.
      JaxftError: the compiler fails for another reason than memory.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise RecipeError(
            "compiling for TPUs needs libtpu, which runs on Linux on x86-64 alone: pip install 'jaxft[tpu]'. "
            "With --no-compile the plan is made by formulas"
        )
    parsed, _ = load_recipe(recipe, overrides)
    kept = cache_directory() / "plans" / f"{_fingerprint(parsed, topology)}.json"
    if kept.is_file() and not again:
        return json.loads(kept.read_text(encoding="utf-8"))
    request = {
        "recipe": str(recipe),
        "overrides": list(overrides),
        "topology": topology.name,
        "slices": topology.slices,
    }
    found = _asked(request)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, json.dumps(found).encode())
    return found


def _fingerprint(recipe: Recipe, topology: Topology) -> str:
    """Of all that a program depends on: the recipe, the devices, the versions, the code of jaxft."""
    digest = hashlib.sha256(f"{topology.name} {topology.slices} {recipe_to_text(recipe)}".encode())
    digest.update(f"{sorted({**versions(), **plugin_digests(recipe)}.items())} {code_digest()}".encode())
    return digest.hexdigest()[:32]


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process that compiles."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "jaxft.workflows.plan.compilation"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **quiet, "JAX_PLATFORMS": "cpu"},
    )
    if done.returncode:
        raise JaxftError(f"the compiler of TPUs stopped with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Answers a request."""
    request = json.load(sys.stdin)
    topology = parse_topology(request["topology"], request["slices"])
    recipe, document = load_recipe(request["recipe"], request["overrides"])
    mesh = make_mesh(recipe.mesh, topology_devices(topology))
    lowered = make_blueprint(recipe, document, mesh).lowered()
    start = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        found: dict[str, Any] = {"fits": False, "peak_bytes": needed}
    else:
        memory, text = program.memory_analysis(), program.as_text()
        assert memory is not None and text is not None, "compilers of TPUs tell both"
        found = {"fits": True, "peak_bytes": memory.peak_memory_in_bytes, "cost": as_json(program_cost(text))}
    found["compile_seconds"] = round(time.perf_counter() - start, 2)
    sys.stdout.write(json.dumps(found) + "\n")


def topology_devices(topology: Topology) -> list[jax.Device]:
    """The devices of TPUs that are not here, for the compiler alone."""
    chip = topology.chip.name
    # Both cores of these work as one device.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip in ("v4", "v5p") else {}
    # A host has a block of 2x2 chips; a slice of one chip a part of one.
    if topology.shape == (1, 1):
        options["chips_per_host_bounds"] = (1, 1, 1)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    return topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices


def needed_bytes(message: str) -> int | None:
    """How much memory the compiler says that a program needs which does not fit; None of another error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    if found := re.search(r"Used ([\d.]+)([KMGT]?) of", message):
        return int(float(found[1]) * _UNITS[found[2]])
    found = re.search(r"Allocation \(size=(\d+)\) would exceed memory", message)
    return int(found[1]) if found else None


def as_json(cost: ProgramCost) -> dict[str, Any]:
    """The cost of a program as plain numbers."""
    on_an_axis = {"overlapped": 0.0, "exposed": 0.0}
    for one in cost.collectives.values():
        on_an_axis["overlapped" if one.overlapped else "exposed"] += one.on_an_axis
    fields = {field.name: getattr(cost, field.name) for field in dataclasses.fields(cost)}
    kernels = [{"call": dataclasses.asdict(call), "times": times} for call, times in cost.kernels.items()]
    between = sum(one.sent for one in cost.collectives.values() if one.between_slices)
    return {
        **fields,
        "collectives": cost.by_kind(),
        "kernels": kernels,
        "on_an_axis": on_an_axis,
        "between_slices": between,
    }


if __name__ == "__main__":
    main()
