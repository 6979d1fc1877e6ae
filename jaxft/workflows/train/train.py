"""Training: from a recipe to a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxft.data.batches import HostBatches, MixedBatches, StreamBatches
from jaxft.data.loader import Prefetcher
from jaxft.data.tokenizers import CHAT_TEMPLATE_FILE
from jaxft.errors import DivergenceError, Interrupted
from jaxft.evaluation.evaluator import Evaluator
from jaxft.models.model import abstract_parameters, sharded_target
from jaxft.parallel.processes import ask_to_stop, from_first, is_first, moved, process_count, stop_reason
from jaxft.parallel.sharding import own_rows, put_batch
from jaxft.recipe.library import load_recipe
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.reporting.atomic import write_atomically
from jaxft.reporting.progress import Progress, format_count
from jaxft.reporting.writers import (
    CombinedWriter,
    JsonlWriter,
    MetricWriter,
    TensorBoardWriter,
    WandbWriter,
    truncate_after,
)
from jaxft.training.early_stopping import best_step, should_stop
from jaxft.training.loop import LoopConfig, run_loop
from jaxft.training.patience import Patience
from jaxft.training.state import TrainState, abstract_state, create_state
from jaxft.workflows.assembly.assemble import Assembly, assemble
from jaxft.workflows.assembly.checks import lower_is_better
from jaxft.workflows.assembly.train_setup import make_train_setup
from jaxft.workflows.runs.agreement import check_data_agrees, check_recipes_agree
from jaxft.workflows.runs.run_directory import RunDirectory, identity_of
from jaxft.workflows.train.logs import shown_through
from jaxft.workflows.train.report import write_run_report


def train(
    recipe: str | pathlib.Path,
    overrides: Sequence[str] = (),
    run_directory: str | pathlib.Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains by a recipe, continuing where an earlier start stopped.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: like `training.seed=1`.
      run_directory: `runs/<name>` where None.
      quiet: no progress on standard error.

    Returns:
      The summary of the run, as in its `summary.json`: `run_dir`, `steps`, `used_step`, `evaluation` (metrics by
      evaluation at the used step), `seconds` and more.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    parsed, document = load_recipe(recipe, overrides)
    return train_recipe(parsed, document, run_directory, quiet)


def train_recipe(
    recipe: Recipe, document: Document, run_directory: str | pathlib.Path | None = None, quiet: bool = False
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
        batches = assembly.batches()
        evaluators = assembly.evaluators()
        if is_first():
            _write_beginning(run, assembly)
        return _Training(run, assembly, batches, evaluators, quiet or not is_first()).run()


def _write_beginning(run: RunDirectory, assembly: Assembly) -> None:
    """Writes what a run is before it trains."""
    if not run.tokenizer.is_dir():
        assembly.tokenizer.save(run.tokenizer)
    if assembly.chat_template is not None:
        write_atomically(run.tokenizer / CHAT_TEMPLATE_FILE, assembly.chat_template.encode())
    run.write_recipe(assembly.recipe)
    if not run.has_model():
        origin = assembly.pretrained
        run.write_model(
            assembly.model.config, dict(assembly.model.heads), origin and origin.huggingface, origin and origin.settings
        )
    run.write_environment()


class _Training:
    """One start of a run; implements the hooks of the loop."""

    def __init__(
        self,
        run: RunDirectory,
        assembly: Assembly,
        batches: Mapping[str, StreamBatches | MixedBatches],
        evaluators: Mapping[str, Evaluator],
        quiet: bool,
    ):
        self._run, self._assembly, self._batches, self._evaluators = run, assembly, batches, evaluators
        self._recipe = assembly.recipe
        self._total = assembly.total_steps(batches)
        self._setup = make_train_setup(assembly, self._total)
        self._quiet = quiet
        self._stop_signal: str | None = None
        self._history: list[dict[str, Any]] = []
        self._saved: list[int] = []
        self._started = time.time()
        self._patience = Patience(self._recipe.training.log_every)

    def run(self) -> dict[str, Any]:
        """Trains to the end.

        Raises:
          Interrupted: a signal asked to stop; the state is saved.
          DivergenceError: no finite gradient for several steps.
        """
        moved(self._patience.pause())
        first, state, train_step = self._prepare()
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.parameters))
        with (
            Progress(self._recipe.name, self._total, first, quiet=self._quiet) as self._progress,
            shown_through(self._progress.message),
            _signals(self._note_signal),
            contextlib.closing(self._writer()) as self._writers,
            contextlib.closing(self._loader(first)) as loader,
            contextlib.closing(self._run.checkpoints),
            jax.set_mesh(self._assembly.mesh),
        ):
            moving = sum(size for _, size, rate, *_ in self._setup.policy.table if rate)
            count = f"{format_count(parameters)} parameters"
            count += "" if moving == parameters else f", {format_count(moving)} of them trained"
            self._progress.message(f"{self._run.path}: {count}, {self._described(first)}")
            config = self._rhythm()
            try:
                step, state = run_loop(state, first, train_step, loader, self, config, loader.take_waited)
            except DivergenceError as error:
                last = self._saved[-1] if self._saved else None
                kept = f"the checkpoint of step {last} is kept" if last is not None else "no checkpoint was written yet"
                raise DivergenceError(f"{error}. In {self._run.path} {kept}") from error
            moved(self._patience.pause())
        moved()
        if self._stop_signal is not None and step < self._total:
            raise Interrupted(
                f"stopped by {self._stop_signal} after step {step} of {self._total}; the state is saved in "
                f"{self._run.path}. The same command continues from there"
            )
        return self._finish(step, parameters)

    def _prepare(self):
        """State at the step to continue from, laid out on the mesh, and the compiled step."""
        assembly, setup = self._assembly, self._setup
        target = abstract_state(setup.model, setup.optimizer, assembly.mesh, setup.keeping)
        step = self._run.checkpoints.newest_good()
        if step is None:
            plain = sharded_target(assembly.plain_model, "float32", assembly.mesh)
            pretrained = assembly.pretrained and assembly.pretrained.parameters(plain)
            state = create_state(
                setup.model,
                setup.optimizer,
                self._recipe.training.seed,
                assembly.mesh,
                setup.start(pretrained),
                setup.keeping,
            )
            state = setup.prepared(state, self._batches)
        else:
            state = self._restored(step, target)
        if is_first():
            truncate_after(self._run.metrics, step or 0)
        return step or 0, state, setup.jitted_step()

    def _restored(self, step: int, target: TrainState) -> TrainState:
        checkpoints = self._run.checkpoints
        self._history = checkpoints.progress(step)["history"]
        # Later steps are there only where they are damaged: they are to be written again.
        self._saved = from_first(lambda: [saved for saved in checkpoints.steps() if saved <= step])
        merged = sharded_target(self._assembly.model, "float32", self._assembly.mesh)
        parameters, rest = checkpoints.restore(step, merged, self._training_items(target))
        return TrainState(**{"parameters": parameters, **rest})

    def _training_items(self, state: TrainState) -> dict[str, Any]:
        """What a checkpoint holds beside the parameters to use: these themselves where others are trained."""
        items = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        if state.average is None and self._recipe.finetuning.lora is None:
            del items["parameters"]
        return {name: value for name, value in items.items() if value is not None}

    def _described(self, first: int) -> str:
        streams = ", ".join(f"{name} {b.batch_size} of {b.rows} rows" for name, b in self._batches.items())
        begin = f"continuing after step {first}" if first else f"{self._total} steps"
        return f"{begin}; {streams}"

    def _rhythm(self) -> LoopConfig:
        training = self._recipe.training
        return LoopConfig(
            total=self._total,
            log_every=training.log_every,
            evaluate_every=training.evaluate_every or max(1, math.ceil(self._total / 10)),
            save_every=self._recipe.checkpoint.every,
            skips_allowed=training.skips_allowed,
        )

    def _writer(self) -> MetricWriter:
        if not is_first():
            return CombinedWriter(())
        writers: list[MetricWriter] = [JsonlWriter(self._run.metrics)]
        reporting = self._recipe.reporting
        if reporting.tensorboard:
            writers.append(TensorBoardWriter(self._run.path / "tensorboard"))
        if reporting.wandb_project is not None:
            writers.append(WandbWriter(reporting.wandb_project, self._recipe.name, self._run.path))
        return CombinedWriter(writers)

    def _loader(self, first: int) -> Prefetcher:
        mesh = self._assembly.mesh
        streams, every = self._active()
        rows = {name: own_rows(mesh, stream.batch_size) for name, stream in streams.items()}
        return Prefetcher(
            HostBatches(streams, every, rows),
            first,
            self._total,
            workers=self._recipe.data.workers,
            put=lambda streams: {name: put_batch(batch, mesh) for name, batch in streams.items()},
        )

    def _active(self):
        """Batches of the streams that are trained, and how often each takes part; the rest were read before."""
        streams = {name: stream for name, stream in self._recipe.streams.items() if stream.weight}
        return {name: self._batches[name] for name in streams}, {name: own.every for name, own in streams.items()}

    def _note_signal(self, name: str) -> None:
        if process_count() == 1:
            self._stop_signal = name
        ask_to_stop(name)
        self._progress.message(f"{name}: finishing this step and saving; once more stops at once")

    # --- The hooks of the loop ---

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and writes training metrics."""
        self._progress.update(step, metrics)
        self._writers.write(step, "train", metrics)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Runs all evaluations; a step that is the best so far is saved at once."""
        if not self._evaluators or any(row["step"] == step for row in self._history):
            return
        moved(self._patience.pause())
        row: dict[str, Any] = {"step": step}
        parameters, origin = self._setup.plain(state.used), self._setup.plain(state.origin)
        for name, evaluator in self._evaluators.items():
            row |= {f"{name}.{metric}": value for metric, value in evaluator(parameters, origin).items()}
        row = from_first(functools.partial(dict, row))
        self._history.append(row)
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        self._writers.write(step, "evaluation", numbers)
        telling = [
            f"{name}.{metric}" for name, evaluator in self._evaluators.items() for metric in evaluator.metrics[:2]
        ]
        shown = "  ".join(f"{name} {numbers[name]:.4g}" for name in telling if name in numbers)
        self._progress.message(f"step {step}: {shown}")
        if self._best() == step:
            self.save(step, state)

    def save(self, step: int, state: TrainState) -> None:
        """Begins to write a checkpoint, unless this step has one."""
        if step in self._saved:
            return
        moved(self._patience.pause())
        best = self._best()
        newest = sorted({*self._saved, step})[-self._recipe.checkpoint.keep :]
        kept = {*newest, *([best] if best is not None else [])}

        def name_best() -> None:
            if best is not None:
                metric = self._recipe.checkpoint.best
                value = next(row[metric] for row in self._history if row["step"] == best)
                self._run.write_best(best, metric, value)

        progress = {"history": list(self._history)}
        parameters, items = self._setup.plain(state.used), self._training_items(state)
        self._run.checkpoints.save(step, parameters, items, progress, kept, name_best)
        self._saved = sorted(kept)

    def should_stop(self) -> bool:
        """Whether the recipe's early stopping says so."""
        config = self._recipe.training.early_stopping
        return config is not None and should_stop(self._history, config, self._lower(config.metric))

    def interrupted(self, step: int) -> bool:
        """Whether a signal came, to this process or another."""
        moved(self._patience.step())
        if process_count() > 1:
            self._stop_signal = stop_reason(step)
        return self._stop_signal is not None

    def _best(self) -> int | None:
        metric = self._recipe.checkpoint.best
        return None if metric is None else best_step(self._history, metric, self._lower(metric))

    def _lower(self, metric: str) -> bool:
        return lower_is_better(self._recipe, self._assembly.objectives, metric)

    def _finish(self, step: int, parameters: int) -> dict[str, Any]:
        used = self._run.used_step()
        summary = {
            "name": self._recipe.name,
            "run_dir": str(self._run.path),
            "parameters": parameters,
            "steps": step,
            "stopped_early": step < self._total,
            "used_step": used,
            "evaluation": _by_evaluation(self._history, used),
            "seconds": round(time.time() - self._started, 2),
        }
        if is_first():
            write_run_report(self._run, self._recipe, summary, self._history, self._labels())
            self._run.write_summary(summary)
        return summary

    def _labels(self) -> dict[str, tuple[str, ...]]:
        """Labels of each evaluation of a classifier."""
        objectives = {name: self._assembly.objectives[e.stream or name] for name, e in self._recipe.evaluation.items()}
        return {name: objective.labels for name, objective in objectives.items() if objective.labels}


def _by_evaluation(history: Sequence[Mapping[str, Any]], step: int) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for name, value in next((row for row in history if row["step"] == step), {}).items():
        if "." in name:
            evaluation, _, metric = name.partition(".")
            out.setdefault(evaluation, {})[metric] = value
    return out


class _signals:
    """Turns the first SIGINT or SIGTERM into a note; a second one acts as it did before."""

    _NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

    def __init__(self, note):
        self._note, self._old = note, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._receive) for number in self._NAMES}

    def _receive(self, number: int, frame: object) -> None:
        self._restore()
        self._note(self._NAMES[signal.Signals(number)])

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        self._restore()


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
    assembly = assemble(*load_recipe(recipe, overrides))
    batches = assembly.batches()
    assembly.evaluators()
    first = {name: stream.batch(0) for name, stream in batches.items()}
    steps = assembly.total_steps(batches)
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
