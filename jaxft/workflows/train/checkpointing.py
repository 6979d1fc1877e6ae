"""Which checkpoints of a run are written, which are kept, and which is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.training.early_stopping import best_step
from jaxft.training.state import TrainState
from jaxft.workflows.assembly.checks import lower_is_better
from jaxft.workflows.assembly.train_setup import TrainSetup
from jaxft.workflows.runs.run_directory import RunDirectory


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

    @property
    def last(self) -> int | None:
        """The newest step that was saved."""
        return self._saved[-1] if self._saved else None

    def best(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        """The best step so far by the recipe's metric; None where it names none, or nothing is evaluated yet."""
        assembly = self._setup.assembly
        metric = assembly.recipe.checkpoint.best
        if metric is None:
            return None
        return best_step(history, metric, lower_is_better(assembly.recipe, assembly.objectives, metric))

    def save(self, step: int, state: TrainState, history: Sequence[Mapping[str, Any]]) -> bool:
        """Begins to write a checkpoint, unless this step has one; whether it did.

        Raises:
          CheckpointError: an earlier one could not be written.
        """
        if step in self._saved:
            return False
        config, best = self._setup.assembly.recipe.checkpoint, self.best(history)
        newest = sorted({*self._saved, step})[-config.keep :]
        kept = {*newest, *([best] if best is not None else [])}

        def name_best() -> None:
            if best is not None and config.best is not None:
                value = next(row[config.best] for row in history if row["step"] == best)
                self._run.write_best(best, config.best, value)

        parameters, items = self._setup.plain(state.used), self._setup.training_items(state)
        self._run.checkpoints.save(step, parameters, items, {"history": list(history)}, kept, name_best)
        self._saved = sorted(kept)
        return True
