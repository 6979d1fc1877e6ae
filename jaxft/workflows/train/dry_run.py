"""What a recipe comes to, without training it."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax

from jaxft.models.model import abstract_parameters
from jaxft.recipe.library import load_recipe
from jaxft.recipe.schema import Recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, total_steps, with_rows_of_shares
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.train_setup import make_train_setup


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What `jaxft train --dry-run` tells.

    Attributes:
      recipe: resolved.
      parameters: number of trained numbers, by part of the model.
      batches: shapes by stream and array.
      tokens_per_step: places for tokens in all batches of a step.
      steps: of the whole run.
      policy: how the parts of the model move, rows as of `jaxft.finetuning.policy.Policy.table`.
    """

    recipe: Recipe
    parameters: dict[str, int]
    batches: dict[str, dict[str, tuple[int, ...]]]
    tokens_per_step: int
    steps: int
    policy: tuple[tuple[str, int, float, int, float | None], ...]


def dry_run(recipe: str | pathlib.Path, overrides: Sequence[str] = ()) -> DryRun:
    """Resolves a recipe and makes its first batch, without a run directory and without training.

    Raises:
      JaxftError: whatever `train` would raise before its first step.
    """
    assembly = with_rows_of_shares(assemble(*load_recipe(recipe, overrides)))
    batches = make_batches(assembly)
    make_evaluators(assembly)
    first = {name: stream.batch(0) for name, stream in batches.items()}
    steps = total_steps(assembly, batches)
    shapes, _ = abstract_parameters(assembly.model)
    parts = {f"trunk/{name}": tree for name, tree in shapes["trunk"].items()}
    parts |= {name: tree for name, tree in shapes.items() if name != "trunk"}
    return DryRun(
        recipe=assembly.recipe,
        parameters={name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in parts.items()},
        batches={name: {key: array.shape for key, array in batch.items()} for name, batch in first.items()},
        tokens_per_step=sum(b[name].size for b in first.values() for name in b if name.endswith("token_ids")),
        steps=steps,
        policy=make_train_setup(assembly, steps).policy.table,
    )
