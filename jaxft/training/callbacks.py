"""What a user's own code may do around the steps of a run."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Mapping


class RunControl:
    """What a callback can ask of a run; also from another thread, such as a notebook's.

    What is asked for is done after the step that is under way; where a run has several processes, whichever of them
    asks, in all of them after the same step, and a checkpoint at the next report.

    Attributes:
      directory: of the run.
      first_step: steps that earlier starts have done.
      total_steps: the step at which the run ends.
    """

    def __init__(self, directory: pathlib.Path, first_step: int, total_steps: int):
        self.directory, self.first_step, self.total_steps = directory, first_step, total_steps
        self._lock = threading.Lock()
        self._finish = self._save = False

    def finish(self) -> None:
        """Ends the run as its last step would: it is evaluated, saved, and finished for good."""
        with self._lock:
            self._finish = True

    def save(self) -> None:
        """Writes a checkpoint, besides those of the recipe's rhythm."""
        with self._lock:
            self._save = True

    def taken(self) -> tuple[bool, bool]:
        """Whether the end and whether a checkpoint were asked for since the last call; for the run itself."""
        with self._lock:
            asked = self._finish, self._save
            self._finish = self._save = False
        return asked


class Callback:
    """The places of a run where a user's code is called; to be derived from, each method does nothing by itself.

    The methods are called in every process of a run, between steps: what takes long in them makes the devices wait. An
    error in one ends the run; its last checkpoint stays.
    """

    def on_begin(self, control: RunControl) -> None:
        """Before the first step of this start.

        Args:
          control: asks the run to save or to finish, at any time until `on_end`.
        """

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """After a report, every `training.log_every` steps.

        Args:
          step: updates done so far.
          metrics: of the steps since the last report: `loss`, `learning_rate`, `tokens_per_second`, `STREAM.loss` ...
        """

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        """After the evaluations of a step.

        Args:
          step: updates done so far; 0 before the first.
          metrics: numbers by `EVALUATION.METRIC`.
        """

    def on_save(self, step: int) -> None:
        """After a checkpoint of this step was begun, which a thread writes."""

    def on_end(self, step: int) -> None:
        """After the last step of this start, however it ended but by an error."""
