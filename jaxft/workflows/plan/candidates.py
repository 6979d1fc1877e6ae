"""Other ways to run a recipe on the same devices: meshes, parts of a batch and of the loss, remat policies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_args

from jaxft.errors import RecipeError
from jaxft.models.config import Remat
from jaxft.parallel.mesh import MeshConfig
from jaxft.planning.topology import Topology, larger_topologies
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.plan.formulas import Sketch, make_sketch, sketched

_REMATS: tuple[Remat, ...] = get_args(Remat)
_PARTS = (1, 2, 4, 8, 16, 32)
_LARGEST_TENSOR = 8


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run a recipe.

    Attributes:
      overrides: that make the recipe so.
      sketch: what formulas say of it.
    """

    overrides: tuple[str, ...]
    sketch: Sketch


def candidates(recipe: Recipe, document: Document, topology: Topology) -> Iterator[Candidate]:
    """All ways that divide batches and parameters."""
    for mesh in _meshes(recipe.mesh, topology):
        changed = dataclasses.replace(recipe, mesh=mesh)
        changed = dataclasses.replace(changed, training=dataclasses.replace(recipe.training, micro_batches=1))
        try:
            sketch = make_sketch(changed, document, topology)
        except RecipeError:
            continue  # this mesh does not divide something
        words = tuple(f"mesh.{axis}={getattr(mesh, axis)}" for axis in ("data", "fsdp", "tensor"))
        for parts, remat in _ways(sketch):
            own = sketched(sketch.blueprint, topology, sketch.passes, parts, remat)
            way = (*words, f"training.micro_batches={parts}", f"training.remat={remat}")
            if own.memory.total > topology.chip.hbm_bytes and (leaner := _in_fewest_parts(sketch, parts, remat)):
                loss_parts, own = leaner
                way += (f"training.loss_parts={loss_parts}",)
            yield Candidate(way, own)


def _meshes(given: MeshConfig, topology: Topology) -> Iterator[MeshConfig]:
    context = max(1, given.context)
    devices, rest = divmod(topology.devices, context)
    tensor = 1
    while not rest and tensor <= min(_LARGEST_TENSOR, devices):
        if devices % tensor == 0:
            others = devices // tensor
            fsdps = [size for size in range(1, others + 1) if others % size == 0 and size.bit_count() == 1]
            yield from (MeshConfig(others // size, size, tensor, context) for size in fsdps)
        tensor *= 2


def _ways(sketch: Sketch) -> Iterator[tuple[int, Remat]]:
    """Parts of a batch and policies that the batches and the objectives allow."""
    recipe, mesh = sketch.blueprint.assembly.recipe, sketch.blueprint.assembly.mesh.shape
    shards = mesh["data"] * mesh["fsdp"]
    sizes = [recipe.streams[name].batch_size for name in sketch.passes]
    whole = any(sketch.blueprint.assembly.objectives[name].whole_batch for name in sketch.passes)
    for parts in _PARTS:
        if all(size % (parts * shards) == 0 for size in sizes) and not (whole and parts > 1):
            yield from ((parts, remat) for remat in _REMATS)


def ways_to_fit(sketch: Sketch, factor: float) -> list[dict[str, Any]]:
    """The first change of each kind that would make a recipe fit.

    Args:
      sketch: of what does not fit.
      factor: by which the compiler's figure exceeds the formula's.

    Returns:
      `change` (overrides, or another topology with them), and `bytes_per_device` by formula times the factor.
    """
    recipe, hbm = sketch.blueprint.assembly.recipe, sketch.topology.chip.hbm_bytes
    now = recipe.training
    found: dict[str, dict[str, Any]] = {}
    for parts, remat in _ways(sketch):
        changes = []
        if remat != now.remat:
            changes.append(f"training.remat={remat}")
        if parts != now.micro_batches:
            changes.append(f"training.micro_batches={parts}")
        memory = sketched(sketch.blueprint, sketch.topology, sketch.passes, parts, remat).memory
        kind = "+".join(change.split("=")[0] for change in changes)
        if changes and kind not in found and memory.total * factor <= hbm and parts >= now.micro_batches:
            found[kind] = {"change": " ".join(changes), "bytes_per_device": int(memory.total * factor)}
    found |= _ways_by_loss(sketch, factor)
    return list(found.values()) or _ways_by_mesh(sketch, factor) or _ways_by_devices(sketch, factor)


def _ways_by_loss(sketch: Sketch, factor: float) -> dict[str, dict[str, Any]]:
    """The fewest parts of the loss that fit, where logits over the vocabulary are what is in the way."""
    now = sketch.blueprint.assembly.recipe.training
    found = _in_fewest_parts(sketch, now.micro_batches, now.remat, factor)
    if found is None:
        return {}
    parts, leaner = found
    needed = int(leaner.memory.total * factor)
    return {"training.loss_parts": {"change": f"training.loss_parts={parts}", "bytes_per_device": needed}}


def _in_fewest_parts(
    sketch: Sketch, micro_batches: int, remat: Remat, factor: float = 1.0
) -> tuple[int, Sketch] | None:
    """The fewest parts of the loss, more than the recipe has, with which it fits, and what formulas then say."""
    for parts in _PARTS:
        if parts > sketch.blueprint.assembly.recipe.training.loss_parts:
            own = sketched(sketch.blueprint, sketch.topology, sketch.passes, micro_batches, remat, parts)
            if own.memory.total * factor <= sketch.topology.chip.hbm_bytes:
                return parts, own
    return None


def _ways_by_mesh(sketch: Sketch, factor: float) -> list[dict[str, Any]]:
    """A mesh that fits where nothing else helps, with parts of a batch and a policy that it then needs."""
    assembly, hbm = sketch.blueprint.assembly, sketch.topology.chip.hbm_bytes
    fitting = [
        one
        for one in candidates(assembly.recipe, assembly.document, sketch.topology)
        if one.sketch.memory.total * factor <= hbm
    ]
    best = min(fitting, key=lambda one: one.sketch.estimate.step, default=None)
    if best is None:
        return []
    return [{"change": " ".join(best.overrides), "bytes_per_device": int(best.sketch.memory.total * factor)}]


def _ways_by_devices(sketch: Sketch, factor: float) -> list[dict[str, Any]]:
    """The fewest devices of the kind that fit, sharing the parameters, where no mesh of those at hand does."""
    assembly = sketch.blueprint.assembly
    mesh = dataclasses.replace(assembly.recipe.mesh, data=sketch.topology.slices, fsdp=-1)
    for topology in larger_topologies(sketch.topology):
        wider = dataclasses.replace(assembly.recipe, mesh=mesh)
        try:
            found = make_sketch(wider, assembly.document, topology)
        except RecipeError:
            continue  # the batch or the parameters do not divide over so many
        for parts, remat in _ways(found):
            memory = sketched(found.blueprint, topology, found.passes, parts, remat).memory
            if memory.total * factor <= topology.chip.hbm_bytes:
                change = (
                    f"--topology {topology.chip.name}-{math.prod(topology.shape)} mesh.data={mesh.data} mesh.fsdp=-1 "
                )
                change += f"training.micro_batches={parts} training.remat={remat}"
                return [{"change": change, "bytes_per_device": int(memory.total * factor)}]
    return []
