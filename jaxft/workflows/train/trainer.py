"""One start of a run: its state is restored or begun, trained to the end, and summed up."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxft.data.batches import HostBatches, MixedBatches, StreamBatches
from jaxft.data.loader import Prefetcher
from jaxft.errors import DivergenceError, Interrupted
from jaxft.evaluation.evaluator import Evaluator
from jaxft.parallel.processes import ask_to_stop, from_first, gathered, is_first, moved, process_count, stop_reason
from jaxft.parallel.sharding import own_rows, put_batch
from jaxft.reporting.progress import Progress, format_count
from jaxft.training.callbacks import Callback, RunControl
from jaxft.training.early_stopping import should_stop
from jaxft.training.loop import LoopConfig, Request, run_loop
from jaxft.training.patience import Patience
from jaxft.training.state import TrainState
from jaxft.workflows.assembly.batches import total_steps
from jaxft.workflows.assembly.checks import lower_is_better
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.assembly.train_setup import TrainSetup, make_train_setup
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.train.checkpointing import CheckpointPolicy
from jaxft.workflows.train.logs import shown_through
from jaxft.workflows.train.report import write_run_report
from jaxft.workflows.train.reporting import RunReporter, make_writer
from jaxft.workflows.train.restoring import Beginning, begin
from jaxft.workflows.train.signals import StopSignals

# Why several processes stop together where a callback asked for the end.
_FINISH = "a callback that asked for the end"


class Trainer:
    """One start of a run."""

    def __init__(
        self,
        run: RunDirectory,
        assembly: Assembly,
        batches: Mapping[str, StreamBatches | MixedBatches],
        evaluators: Mapping[str, Evaluator],
        quiet: bool = False,
        callbacks: Sequence[Callback] = (),
    ):
        """
        Args:
          run: its directory, locked.
          assembly: its parts.
          batches: of every stream.
          evaluators: by name.
          quiet: no progress on standard error.
          callbacks: the user's own code around the steps.

        Raises:
          RecipeError: what is to be trained does not fit the model.
        """
        self._run, self._assembly, self._batches, self._evaluators = run, assembly, batches, evaluators
        self._quiet, self._callbacks = quiet, tuple(callbacks)
        self._total = total_steps(assembly, batches)
        self._setup = make_train_setup(assembly, self._total)
        self._started = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Trains to the end, and returns the summary.

        Raises:
          Interrupted: a signal asked to stop; the state is saved.
          DivergenceError: no finite gradient for several steps.
        """
        patience = Patience(self._assembly.recipe.training.log_every)
        moved(patience.pause())
        beginning = begin(self._run, self._setup, self._batches)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(beginning.state.parameters))
        recipe, control = self._assembly.recipe, RunControl(self._run.path, beginning.step, self._total)
        with (
            Progress(recipe.name, self._total, beginning.step, quiet=self._quiet) as progress,
            contextlib.nullcontext() if self._quiet else shown_through(progress.message),
            contextlib.closing(make_writer(self._run, recipe, beginning.last_row)) as writer,
            contextlib.closing(self._loader(beginning.step)) as loader,
            contextlib.closing(self._run.checkpoints),
            jax.set_mesh(self._assembly.mesh),
        ):
            reporter = RunReporter(progress, writer, self._callbacks)
            checkpoints = CheckpointPolicy(self._run, self._setup, beginning.saved)
            hooks = _RunHooks(
                self._run, self._setup, self._evaluators, beginning, checkpoints, reporter, patience, control
            )
            reporter.message(f"{self._run.path}: {self._counted(parameters)}, {self._described(beginning.step)}")
            for callback in self._callbacks:
                callback.on_begin(control)
            with StopSignals(hooks.note_signal):
                step = self._trained(beginning, hooks, loader)
            for callback in self._callbacks:
                callback.on_end(step)
            moved(patience.pause())
        moved()
        if hooks.signal is not None and step < self._total:
            raise Interrupted(
                f"stopped by {hooks.signal} after step {step} of {self._total}; the state is saved in "
                f"{self._run.path}. The same command continues from there"
            )
        return self._finished(step, parameters, hooks.history)

    def _trained(self, beginning: Beginning, hooks: _RunHooks, loader: Prefetcher) -> int:
        """The step after which the loop ended."""
        training = self._assembly.recipe.training
        config = LoopConfig(
            total=self._total,
            log_every=training.log_every,
            evaluate_every=training.evaluate_every or max(1, math.ceil(self._total / 10)),
            save_every=self._assembly.recipe.checkpoint.every,
            skips_allowed=training.skips_allowed,
        )
        train_step = self._setup.jitted_step()
        try:
            step, _ = run_loop(beginning.state, beginning.step, train_step, loader, hooks, config, loader.take_waited)
        except DivergenceError as error:
            last = hooks.checkpoints.last
            kept = f"the checkpoint of step {last} is kept" if last is not None else "no checkpoint was written yet"
            raise DivergenceError(f"{error}. In {self._run.path} {kept}") from error
        return step

    def _loader(self, first: int) -> Prefetcher:
        """Batches of the streams that are trained; the rest were read before."""
        mesh, recipe = self._assembly.mesh, self._assembly.recipe
        every = {name: stream.every for name, stream in recipe.streams.items() if stream.weight}
        streams = {name: self._batches[name] for name in every}
        rows = {name: own_rows(mesh, stream.batch_size) for name, stream in streams.items()}
        return Prefetcher(
            HostBatches(streams, every, rows),
            first,
            self._total,
            workers=recipe.data.workers,
            put=lambda streams: {name: put_batch(batch, mesh) for name, batch in streams.items()},
        )

    def _counted(self, parameters: int) -> str:
        moving = sum(size for _, size, rate, *_ in self._setup.policy.table if rate)
        count = f"{format_count(parameters)} parameters"
        return count if moving == parameters else f"{count}, {format_count(moving)} of them trained"

    def _described(self, first: int) -> str:
        streams = ", ".join(f"{name} {b.batch_size} of {b.rows} rows" for name, b in self._batches.items())
        return f"{f'continuing after step {first}' if first else f'{self._total} steps'}; {streams}"

    def _finished(self, step: int, parameters: int, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        used, recipe = self._run.used_step(), self._assembly.recipe
        summary = {
            "name": recipe.name,
            "run_dir": str(self._run.path),
            "parameters": parameters,
            "steps": step,
            "stopped_early": step < self._total,
            "used_step": used,
            "evaluation": _by_evaluation(history, used),
            "seconds": round(time.monotonic() - self._started, 2),
        }
        if is_first():
            self._run.check_held()
            objectives = {name: self._assembly.evaluated_objective(name) for name in recipe.evaluation}
            labels = {name: objective.labels for name, objective in objectives.items() if objective.labels}
            write_run_report(self._run, recipe, summary, history, labels)
            self._run.write_summary(summary)
        return summary


class _RunHooks:
    """What happens around the steps of a run; implements `jaxft.training.loop.Hooks`.

    Attributes:
      history: evaluations so far.
      checkpoints: that were written.
      signal: that asked to stop, or None.
    """

    def __init__(
        self,
        run: RunDirectory,
        setup: TrainSetup,
        evaluators: Mapping[str, Evaluator],
        beginning: Beginning,
        checkpoints: CheckpointPolicy,
        reporter: RunReporter,
        patience: Patience,
        control: RunControl,
    ):
        self._run, self._setup, self._evaluators, self._reporter = run, setup, evaluators, reporter
        self._patience, self._control = patience, control
        self._has_callbacks, self._asked_to_save = reporter.has_callbacks, False
        self.checkpoints = checkpoints
        self.history = list(beginning.history)
        self.signal: str | None = None

    def note_signal(self, name: str) -> None:
        """Takes a signal, which may come at any time."""
        if process_count() == 1:
            self.signal = name
        ask_to_stop(name)
        self._reporter.message(f"{name}: finishing this step and saving; once more stops at once")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and writes training metrics."""
        self._run.check_held()
        self._reporter.logged(step, metrics)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Runs all evaluations; a step that is the best so far is saved at once."""
        if not self._evaluators or any(row["step"] == step for row in self.history):
            return
        moved(self._patience.pause())
        row: dict[str, Any] = {"step": step}
        parameters = self._setup.plain(state.used)
        origin = None if state.origin is None else self._setup.plain(state.origin)
        for name, evaluator in self._evaluators.items():
            row |= {f"{name}.{metric}": value for metric, value in evaluator(parameters, origin).items()}
        row = from_first(functools.partial(dict, row))
        self.history.append(row)
        self._run.check_held()
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        telling = [f"{name}.{metric}" for name, own in self._evaluators.items() for metric in own.metrics[:2]]
        self._reporter.evaluated(step, numbers, telling)
        if self.checkpoints.is_best(step, self.history):
            self.save(step, state)

    def save(self, step: int, state: TrainState) -> None:
        """Begins to write a checkpoint, unless this step has one."""
        moved(self._patience.pause())
        self._run.check_held()
        if self.checkpoints.save(step, state, self.history):
            self._reporter.saved(step)

    def should_stop(self) -> bool:
        """Whether the recipe's early stopping says so."""
        assembly = self._setup.assembly
        config = assembly.recipe.training.early_stopping
        if config is None:
            return False
        return should_stop(self.history, config, lower_is_better(assembly.recipe, assembly.objectives, config.metric))

    def requested(self, step: int) -> Request:
        """What a signal or a callback asks for, of this process or another."""
        moved(self._patience.step())
        self.checkpoints.check()
        finish, save = self._control.taken()
        if process_count() == 1:
            return Request(self.signal is not None, finish, save)
        if finish:
            ask_to_stop(_FINISH)
        reason = stop_reason(step)
        if reason is not None and reason != _FINISH:
            self.signal = reason
        return Request(self.signal is not None, reason == _FINISH, self._save_agreed(step, save))

    def _save_agreed(self, step: int, asked: bool) -> bool:
        """Whether a process asked for a checkpoint since the last report, at which they agree on it."""
        self._asked_to_save |= asked
        if not self._has_callbacks or step % self._setup.assembly.recipe.training.log_every:
            return False
        agreed, self._asked_to_save = any(gathered(self._asked_to_save)), False
        return agreed


def _by_evaluation(history: Sequence[Mapping[str, Any]], step: int) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for name, value in next((row for row in history if row["step"] == step), {}).items():
        if "." in name:
            evaluation, _, metric = name.partition(".")
            out.setdefault(evaluation, {})[metric] = value
    return out
