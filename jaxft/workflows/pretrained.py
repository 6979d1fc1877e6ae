"""Weights that a run starts from: the checkpoint of an earlier run."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any

from jaxft.checkpoint.checkpoints import described_arrays
from jaxft.errors import CheckpointError
from jaxft.models.config import ModelConfig
from jaxft.recipe.library import load_recipe
from jaxft.workflows.run_directory import RunDirectory

_logger = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint to start from.

    Attributes:
      run: the run that made it.
      step: which of its checkpoints.
      config: its model.
      tokenizer_directory: its tokenizer.
    """

    run: RunDirectory
    step: int
    config: ModelConfig
    tokenizer_directory: pathlib.Path

    def parameters(self, target) -> dict[str, Any]:
        """Its arrays under the names that `target` has, in the layout of `target`.

        The whole trunk must be there. A head that only one of the two has is fresh or left out, which is logged.

        Args:
          target: nested dict of ShapeDtypeStruct with shardings.

        Raises:
          CheckpointError: a part of the trunk is missing or of another shape.
        """
        arrays = self.run.checkpoints.progress(self.step)["arrays"]["parameters"]
        shared = {name: tree for name, tree in target.items() if name == "trunk" or _has(arrays, name)}
        rest = {name: described for name, described in arrays.items() if name.split("/")[0] not in shared}
        if fresh := [name for name in target if name not in shared]:
            _logger.info("%s has no %s: starts fresh", self.run.path, ", ".join(fresh))
        restored, _ = self.run.checkpoints.restore(self.step, shared | described_arrays(rest))
        return {name: restored[name] for name in shared}


def _has(arrays: dict[str, Any], head: str) -> bool:
    return any(name.startswith(f"{head}/") for name in arrays)


def open_pretrained(path: str) -> Pretrained:
    """The checkpoint that `model.pretrained` names: a run directory, or one of its `checkpoints/<step>`.

    Raises:
      CheckpointError: it is neither, or it is damaged.
    """
    directory = pathlib.Path(path)
    run, step = RunDirectory(directory), None
    if directory.parent.name == "checkpoints" and directory.name.isdigit():
        run, step = RunDirectory(directory.parent.parent), int(directory.name)
        run.checkpoints.verify(step)
    run.check_started()
    recipe, _ = load_recipe(run.path / "recipe.yaml")
    if step is None:
        step = run.used_step()
    fields = {field.name: getattr(recipe.model, field.name) for field in dataclasses.fields(ModelConfig)}
    if missing := [name for name in ("vocab_size", "family") if fields[name] is None]:
        raise CheckpointError(f"{run.path / 'recipe.yaml'} is not a resolved recipe: model.{missing[0]} is missing")
    known = {name: value for name, value in fields.items() if value is not None}
    return Pretrained(run, step, ModelConfig(**known), run.tokenizer)
