"""A trained run, opened for use."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.huggingface.loaded import sharded_target
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
    step = run.chosen_step(step)
    parameters, _ = run.checkpoints.restore(step, sharded_target(assembly.model, "float32", assembly.mesh))
    return OpenedRun(run, assembly, step, parameters)
