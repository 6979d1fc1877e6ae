"""The state that a start of a run begins with: an earlier checkpoint, pretrained weights, or fresh parameters."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from jaxft.data.batches import MixedBatches, StreamBatches
from jaxft.errors import CheckpointError
from jaxft.models.model import sharded_target
from jaxft.parallel.processes import from_first, is_first
from jaxft.reporting.writers import rows_are_as_written
from jaxft.training.state import TrainState, abstract_state, create_state
from jaxft.workflows.assembly.train_setup import TrainSetup
from jaxft.workflows.runs.run_directory import RunDirectory

_logger = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class Beginning:
    """Where a start of a run begins.

    Attributes:
      step: steps that are done.
      state: at that step, laid out on the mesh.
      history: evaluations so far, each with `step` and metrics like `reviews.accuracy`.
      saved: steps whose checkpoints are there.
    """

    step: int
    state: TrainState
    history: tuple[dict[str, Any], ...] = ()
    saved: tuple[int, ...] = ()

    @property
    def last_row(self) -> int:
        """The step whose metrics are the last that were written by what is continued; -1 where all begins anew."""
        return self.step if self.saved else -1


def begin(run: RunDirectory, setup: TrainSetup, batches: Mapping[str, StreamBatches | MixedBatches]) -> Beginning:
    """The newest checkpoint that is whole; where there is none, the state before the first step.

    Raises:
      CheckpointError: the pretrained weights do not fit.
    """
    step = run.checkpoints.newest_good()
    if step is not None:
        return _restored(run, setup, step)
    assembly = setup.assembly
    plain = sharded_target(assembly.plain_model, "float32", assembly.mesh)
    pretrained = None if assembly.pretrained is None else assembly.pretrained.parameters(plain)
    state = create_state(
        setup.model,
        setup.optimizer,
        assembly.recipe.training.seed,
        assembly.mesh,
        setup.start(pretrained),
        setup.keeping,
    )
    return Beginning(0, setup.prepared(state, batches))


def _restored(run: RunDirectory, setup: TrainSetup, step: int) -> Beginning:
    checkpoints, assembly = run.checkpoints, setup.assembly
    progress = checkpoints.progress(step)
    if is_first() and not rows_are_as_written(run.metrics, progress.get("rows")):
        _logger.warning(
            "%s is not what the run wrote until step %d: its plots may show other numbers", run.metrics, step
        )
    # Later steps are there only where they are damaged: they are to be written again.
    saved = from_first(
        lambda: [saved for saved in checkpoints.steps() if saved <= step and _usable(run, saved, progress)]
    )
    target = abstract_state(setup.model, setup.optimizer, assembly.mesh, setup.keeping)
    merged = sharded_target(assembly.model, "float32", assembly.mesh)
    parameters, rest = checkpoints.restore(step, merged, setup.training_items(target))
    items = {"parameters": parameters, **(rest or {})}
    return Beginning(step, TrainState(**items), tuple(progress["history"]), tuple(saved))


def _usable(run: RunDirectory, step: int, progress: Mapping[str, Any]) -> bool:
    """Whether an earlier checkpoint may become the one that the run is used at: the best so far may be damaged."""
    best = progress.get("best")
    if best is None or best["step"] != step:
        return True
    try:
        run.checkpoints.verify(step)
    except CheckpointError as error:
        _logger.warning("%s; it was the best so far, and those that are whole count from here on", error)
        return False
    return True
