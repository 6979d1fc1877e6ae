"""A trained run, opened for use."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from jaxft.errors import CheckpointError
from jaxft.models.model import abstract_parameters
from jaxft.parallel.sharding import parameter_shardings
from jaxft.recipe.library import load_recipe
from jaxft.recipe.schema import TokenizerSection
from jaxft.workflows.assembly import Assembly, assemble
from jaxft.workflows.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A run at one of its checkpoints.

    Attributes:
      run: its directory.
      assembly: its parts.
      step: the checkpoint's step.
      parameters: nested dict of arrays on the mesh.
    """

    run: RunDirectory
    assembly: Assembly
    step: int
    parameters: Any


def open_run(path: str | pathlib.Path, overrides: Sequence[str] = (), step: int | None = None) -> OpenedRun:
    """Opens a run with its tokenizer, model and parameters.

    Args:
      path: a run directory.
      overrides: of its recipe.
      step: which checkpoint; the best one where the recipe names a metric for it, else the last, where None.

    Raises:
      CheckpointError: it is no run, or has no such checkpoint, or that is damaged.
    """
    run = RunDirectory(path)
    run.check_started()
    recipe, document = load_recipe(run.path / "recipe.yaml", overrides)
    recipe = dataclasses.replace(
        recipe,
        # The run has its own weights and tokenizer: where they once came from may be gone.
        model=dataclasses.replace(recipe.model, preset=None, pretrained=None),
        tokenizer=TokenizerSection(path=str(run.tokenizer.absolute())),
    )
    assembly = assemble(recipe, document, run)
    if step is None:
        step = run.used_step()
    elif step not in run.checkpoints.steps():
        there = ", ".join(map(str, run.checkpoints.steps())) or "none"
        raise CheckpointError(f"{run.path} has no checkpoint of step {step}; there are {there}")
    else:
        run.checkpoints.verify(step)
    shapes, axes = abstract_parameters(assembly.model)
    shardings = parameter_shardings(axes, shapes, assembly.mesh)
    target = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings)
    parameters, _ = run.checkpoints.restore(step, target)
    return OpenedRun(run, assembly, step, parameters)
