"""A trained run, opened for use."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.errors import CheckpointError, JaxftError
from jaxft.models.model import sharded_target
from jaxft.parallel.trees import Shapes
from jaxft.recipe.schema import TokenizerSection
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.runs.agreement import check_recipes_agree
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.loading import open_pretrained
from jaxft.workflows.weights.location import locate_run


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run at one of its checkpoints.

    Attributes:
      run: its directory.
      assembly: its parts.
      step: the checkpoint's step.
      parameters: nested dict of arrays on the mesh.
      origin: those that the run began with, where an evaluation compares with them, else None.
    """

    run: RunDirectory
    assembly: Assembly
    step: int
    parameters: Any
    origin: Any = None


def open_run(path: str | pathlib.Path, overrides: Sequence[str] = (), step: int | None = None) -> TrainedRun:
    """Opens a run with its tokenizer, model and parameters.

    Args:
      path: a run directory, one of its `checkpoints/STEP`, or `RUN:STEP`.
      overrides: of its recipe.
      step: which checkpoint; the best one where the recipe names a metric for it, else the last, where None.

    Raises:
      CheckpointError: it is no run, or has no such checkpoint, or that is damaged.
    """
    location = locate_run(path, step)
    run = location.need_run()
    recipe, document = run.recipe(overrides)
    check_recipes_agree(recipe)
    began, adapter = recipe.model.pretrained, recipe.model.adapter
    recipe = dataclasses.replace(
        recipe,
        # The run has its own weights and tokenizer: where they once came from may be gone.
        model=dataclasses.replace(recipe.model, preset=None, pretrained=None, adapter=None),
        tokenizer=TokenizerSection(path=str(run.tokenizer.absolute())),
    )
    assembly = assemble(recipe, document, run)
    target = sharded_target(assembly.model, "float32", assembly.mesh)
    parameters, _ = run.checkpoints.restore(location.step, target)
    compared = (assembly.evaluated_objective(name) for name in recipe.evaluation)
    origin = None
    # Only where it is needed, since what the run began with may be gone.
    if began is not None and any(objective.needs_origin for objective in compared):
        origin = _origin(run, began, adapter, target)
    return TrainedRun(run, assembly, location.step, parameters, origin)


def _origin(run: RunDirectory, began: str, adapter: str | None, target: Shapes) -> Any:
    """The pretrained weights that a run began with.

    Raises:
      CheckpointError: they are not where they were, or lack a head that the run has.
    """
    try:
        found = open_pretrained(began, adapter).parameters(target)
    except JaxftError as error:
        raise CheckpointError(f"{run.path} is measured against the weights that it began with: {error}") from error
    if missing := sorted(set(target) - set(found)):
        raise CheckpointError(f"{run.path} is measured against {began}, which has no {missing[0]}")
    return found
