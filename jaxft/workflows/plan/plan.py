"""Planning: whether a recipe fits devices that are not here, and how fast it should run on them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.planning.attention import AttentionUse, attention_uses, kernel_names
from jaxft.planning.estimate import Estimate, of_program
from jaxft.planning.flops import training_flops
from jaxft.planning.memory import by_part
from jaxft.planning.topology import parse_topology
from jaxft.recipe.library import load_recipe
from jaxft.workflows.plan.candidates import ways_to_fit
from jaxft.workflows.plan.compilation import compiled
from jaxft.workflows.plan.formulas import Sketch, make_sketch

_DAY = 24 * 3600


def plan(
    recipe: str | pathlib.Path,
    overrides: Sequence[str] = (),
    *,
    topology: str,
    slices: int = 1,
    compile: bool = True,
    again: bool = False,
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """What a recipe asks of devices that are not here; neither its data nor its vocabulary need be there.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: like `mesh.tensor=4`.
      topology: like `v5e-256`, `v5p:4x4x8`, `h100-8` (see `jaxft.planning.topology`).
      slices: how many such TPU slices.
      compile: whether the step is compiled for TPUs; formulas alone say less, and all that is said of GPUs.
      again: whether it is compiled also where the answer is remembered.
      price_per_hour: of one chip, in any currency.

    Returns:
      What `jaxft plan --json` prints: `devices`, `parameters`, `bytes_per_device`, `hbm_bytes`, `fits`,
      `flops_per_step`, `estimated_step_seconds`, `estimated_mfu`, `compile_seconds`, `attention` and more.

    Raises:
      JaxftError: the recipe or the topology is wrong, or the compiler fails.
    """
    parsed, document = load_recipe(recipe, overrides)
    place = parse_topology(topology, slices)
    sketch = make_sketch(parsed, document, place)
    found = compiled(recipe, overrides, place, again) if compile and place.compiles else None
    return told(sketch, found, price_per_hour)


def told(sketch: Sketch, found: dict[str, Any] | None, price_per_hour: float | None) -> dict[str, Any]:
    """A plan in plain numbers.

    Args:
      sketch: what formulas say.
      found: what the compiler says, or None.
      price_per_hour: of one chip, or None.
    """
    place, memory = sketch.topology, sketch.memory
    needed = memory.total if found is None else found["peak_bytes"]
    cost = None if found is None else found.get("cost")
    estimate = sketch.estimate if cost is None else of_program(cost, place)
    fits = needed <= place.chip.hbm_bytes and (found is None or found["fits"])
    recipe, table, uses = sketch.blueprint.assembly.recipe, sketch.table, _attention(sketch)
    return {
        "recipe": recipe.name,
        "topology": place.name,
        "chips": place.chips,
        "devices": place.devices,
        "slices": place.slices,
        "mesh": dict(sketch.blueprint.assembly.mesh.shape),
        "parameters": sum(row.size for row in table),
        "parameters_by_part": by_part(table),
        "parameter_table": [dataclasses.asdict(row) for row in table],
        "streams": {name: _stream(sketch, name) for name in sketch.passes},
        "tokens_per_step": sketch.tokens,
        "flops_per_step": sketch.flops.total,
        "flops_per_token": sketch.flops.total / sketch.tokens,
        "flops_by_part": dataclasses.asdict(sketch.flops),
        "memory_by_formula": {**dataclasses.asdict(memory), "total": memory.total},
        "bytes_per_device": needed,
        "hbm_bytes": place.chip.hbm_bytes,
        "fits": fits,
        "ways_to_fit": [] if fits else ways_to_fit(sketch, needed / memory.total),
        "attention": kernel_names(use for own in uses.values() for use in own),
        "attention_uses": [
            {"stream": name, **dataclasses.asdict(use)} for name, own in uses.items() for use in dict.fromkeys(own)
        ],
        "compiled": cost,
        "compile_seconds": None if found is None else found["compile_seconds"],
        **_speed(sketch, estimate, price_per_hour),
    }


def _stream(sketch: Sketch, name: str) -> dict[str, Any]:
    stream, passes = sketch.blueprint.assembly.recipe.streams[name], sketch.passes[name]
    flops = training_flops(sketch.blueprint.assembly.model.config, passes)
    return {
        "objective": stream.objective.kind,
        "rows": stream.batch_size,
        "every": stream.every,
        "passes": [dataclasses.asdict(one) for one in passes],
        "tokens": sum(one.tokens for one in passes if one.trained),
        "flops": flops.total,
    }


def _attention(sketch: Sketch) -> dict[str, list[AttentionUse]]:
    """What computes attention in the layers of each stream's passes."""
    model, mesh = sketch.blueprint.assembly.model, sketch.blueprint.assembly.mesh.shape
    return {
        name: [
            use
            for one in passes
            for stack in attention_uses(model.config, model.compute, one, mesh, sketch.topology.platform)
            for use in stack
        ]
        for name, passes in sketch.passes.items()
    }


def _speed(sketch: Sketch, estimate: Estimate, price_per_hour: float | None) -> dict[str, Any]:
    """Time, use of the chips, and cost."""
    place, steps = sketch.topology, sketch.blueprint.assembly.recipe.training.steps
    hours = None if steps is None else steps * estimate.step / 3600
    price = None if price_per_hour is None else price_per_hour * place.chips
    tokens = sketch.tokens / estimate.step
    return {
        "estimate": dataclasses.asdict(estimate),
        "estimated_step_seconds": estimate.step,
        "estimated_mfu": sketch.flops.total / (place.devices * place.chip.peak_flops * estimate.step),
        "tokens_per_day": tokens * _DAY,
        "steps": steps,
        "estimated_hours": hours,
        "cost_per_billion_tokens": None if price is None else price * 1e9 / tokens / 3600,
        "cost": None if price is None or hours is None else price * hours,
    }
