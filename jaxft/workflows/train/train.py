"""Training: from a recipe to a run directory."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.data.tokenizers import CHAT_TEMPLATE_FILE
from jaxft.parallel.processes import is_first
from jaxft.recipe.library import load_recipe
from jaxft.recipe.plugins import plugin_digests
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.reporting.atomic import directory_written_whole
from jaxft.training.callbacks import Callback
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, with_rows_of_shares
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.runs.agreement import check_data_agrees, check_recipes_agree
from jaxft.workflows.runs.identity import identity_of
from jaxft.workflows.runs.model_use import use_of
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.train.trainer import Trainer


def train(
    recipe: str | pathlib.Path,
    overrides: Sequence[str] = (),
    run_directory: str | pathlib.Path | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Trains by a recipe, continuing where an earlier start stopped.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: like `training.seed=1`.
      run_directory: `runs/<name>` where None.
      quiet: no progress on standard error.
      callbacks: the user's own code around the steps, see `jaxft.Callback`.

    Returns:
      The summary of the run, as in its `summary.json`: `run_dir`, `steps`, `used_step`, `evaluation` (metrics by
      evaluation at the used step), `seconds` and more.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    parsed, document = load_recipe(recipe, overrides)
    return train_recipe(parsed, document, run_directory, quiet, callbacks)


def train_recipe(
    recipe: Recipe,
    document: Document,
    run_directory: str | pathlib.Path | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """As `train`, for a recipe that is already read."""
    check_recipes_agree(recipe)
    run = RunDirectory(run_directory or pathlib.Path("runs") / recipe.name)
    with run.locked():
        assembly = assemble(recipe, document, run)
        check_data_agrees(assembly.source_fingerprints)
        if is_first():
            run.check_identity(identity_of(recipe, assembly.source_fingerprints))
        if (summary := run.summary()) is not None:
            return {**summary, "already_finished": True}
        assembly = with_rows_of_shares(assembly)
        batches = make_batches(assembly)
        evaluators = make_evaluators(assembly)
        if is_first():
            _write_beginning(run, assembly)
        return Trainer(run, assembly, batches, evaluators, quiet or not is_first(), callbacks).run()


def _write_beginning(run: RunDirectory, assembly: Assembly) -> None:
    """Writes what a run is before it trains."""
    if not run.tokenizer.is_dir():
        with directory_written_whole(run.tokenizer) as directory:
            assembly.tokenizer.save(directory)
            if assembly.chat_template is not None:
                (directory / CHAT_TEMPLATE_FILE).write_bytes(assembly.chat_template.encode())
    run.write_recipe(assembly.recipe)
    if not run.has_model():
        origin = assembly.pretrained
        run.write_model(
            assembly.model.config,
            dict(assembly.model.heads),
            None if origin is None else origin.huggingface,
            None if origin is None else origin.settings,
            use_of({name: stream.objective for name, stream in assembly.recipe.streams.items()}),
        )
    run.write_environment(plugin_digests(assembly.recipe))
