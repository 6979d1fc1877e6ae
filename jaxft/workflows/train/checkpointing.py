"""Which checkpoints of a run are written, which are kept, and which is the best."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.errors import CheckpointError
from jaxft.parallel.processes import gathered
from jaxft.reporting.writers import rows_written
from jaxft.training.early_stopping import best_step
from jaxft.training.state import TrainState
from jaxft.workflows.assembly.checks import lower_is_better
from jaxft.workflows.assembly.train_setup import TrainSetup
from jaxft.workflows.runs.run_directory import RunDirectory

_logger = logging.getLogger("jaxft")


class CheckpointPolicy:
    """Writes the checkpoints of a run and keeps the newest and the best."""

    def __init__(self, run: RunDirectory, setup: TrainSetup, saved: Sequence[int]):
        """
        Args:
          run: its directory.
          setup: what it trains.
          saved: steps whose checkpoints are there.
        """
        self._run, self._setup, self._saved = run, setup, list(saved)
        self._pending: int | None = None
        self._before = self._saved
        self._failures = 0

    @property
    def last(self) -> int | None:
        """The newest step that was saved."""
        return self._saved[-1] if self._saved else None

    def best(self, history: Sequence[Mapping[str, Any]], step: int) -> dict[str, Any] | None:
        """The `step`, `metric` and `value` of the best checkpoint by the recipe's metric, that of `step` among them.

        None where the recipe names no metric, or nothing is evaluated yet.
        """
        assembly = self._setup.assembly
        metric = assembly.recipe.checkpoint.best
        if metric is None:
            return None
        there = [row for row in history if row["step"] in {*self._saved, step}]
        best = best_step(there, metric, lower_is_better(assembly.recipe, assembly.objectives, metric))
        if best is None:
            return None
        return {"step": best, "metric": metric, "value": next(row[metric] for row in there if row["step"] == best)}

    def is_best(self, step: int, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether this step is the best so far."""
        best = self.best(history, step)
        return best is not None and best["step"] == step

    def save(self, step: int, state: TrainState, history: Sequence[Mapping[str, Any]]) -> bool:
        """Begins to write a checkpoint, unless this step has one; whether it did.

        A checkpoint that cannot be written is told at once, and training goes on.

        Raises:
          CheckpointError: this is the second one in a row that could not be written.
        """
        self._settle()
        if step in self._saved:
            return False
        best = self.best(history, step)
        newest = sorted({*self._saved, step})[-self._setup.assembly.recipe.checkpoint.keep :]
        kept = {*newest, *([best["step"]] if best is not None else [])}
        parameters, items = self._setup.plain(state.used), self._setup.training_items(state)
        progress = {"history": list(history), "best": best, "rows": rows_written(self._run.metrics)}
        name_best = (lambda: None) if best is None else functools.partial(self._run.write_best, best)
        try:
            self._run.checkpoints.save(step, parameters, items, progress, kept, name_best)
        except CheckpointError as error:
            _logger.warning("%s", error)
            self._fail(error)
            return False
        self._pending, self._before, self._saved = step, self._saved, sorted(kept)
        return True

    def check(self) -> None:
        """Whether saving is in order, without waiting for it.

        Raises:
          CheckpointError: two checkpoints in a row could not be written.
        """
        if self._failures and (failure := self._run.checkpoints.failure) is not None:
            raise failure

    def _settle(self) -> None:
        """Waits for the checkpoint that is being written, and learns whether it was."""
        failure = self._run.checkpoints.take_failure()
        told = [problem for problem in gathered(None if failure is None else str(failure)) if problem is not None]
        if self._pending is None:
            return
        self._pending = None
        if not told:
            self._failures = 0
            return
        self._saved = self._before
        self._fail(CheckpointError(told[0]))

    def _fail(self, error: CheckpointError) -> None:
        self._failures += 1
        if self._failures > 1:
            raise error
