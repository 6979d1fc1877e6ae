"""What is told of a run while it trains: to a person, to files and services, and to the user's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxft.parallel.processes import is_first
from jaxft.recipe.schema import Recipe
from jaxft.reporting.progress import Progress
from jaxft.reporting.writers import (
    CombinedWriter,
    JsonlWriter,
    MetricWriter,
    TensorBoardWriter,
    WandbWriter,
    truncate_after,
)
from jaxft.training.callbacks import Callback
from jaxft.workflows.runs.run_directory import RunDirectory


class RunReporter:
    """Tells everybody of the metrics of a run."""

    def __init__(self, progress: Progress, writer: MetricWriter, callbacks: Sequence[Callback]):
        """
        Args:
          progress: what a person sees.
          writer: of files and services.
          callbacks: the user's own code.
        """
        self._progress, self._writer, self._callbacks = progress, writer, callbacks

    @property
    def has_callbacks(self) -> bool:
        """Whether there is any code of the user's own."""
        return bool(self._callbacks)

    def message(self, text: str) -> None:
        """A line for a person."""
        self._progress.message(text)

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of training."""
        self._progress.update(step, metrics)
        self._writer.write(step, "train", metrics)
        for callback in self._callbacks:
            callback.on_log(step, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float], telling: Sequence[str]) -> None:
        """Numbers of the evaluations of a step, of which those that tell most are shown."""
        self._writer.write(step, "evaluation", metrics)
        shown = "  ".join(f"{name} {metrics[name]:.4g}" for name in telling if name in metrics)
        self._progress.message(f"step {step}: {shown}")
        for callback in self._callbacks:
            callback.on_evaluate(step, metrics)

    def saved(self, step: int) -> None:
        """That a checkpoint of this step was begun."""
        for callback in self._callbacks:
            callback.on_save(step)


def make_writer(run: RunDirectory, recipe: Recipe, last: int) -> MetricWriter:
    """Where the metrics of a run go, without rows of steps that are trained again; nowhere but in the first process.

    Args:
      run: its directory.
      recipe: names services.
      last: step of the last row that stays.
    """
    if not is_first():
        return CombinedWriter(())
    truncate_after(run.metrics, last)
    writers: list[MetricWriter] = [JsonlWriter(run.metrics)]
    if recipe.reporting.tensorboard:
        writers.append(TensorBoardWriter(run.path / "tensorboard"))
    if recipe.reporting.wandb_project is not None:
        writers.append(WandbWriter(recipe.reporting.wandb_project, recipe.name, run.path))
    return CombinedWriter(writers)
