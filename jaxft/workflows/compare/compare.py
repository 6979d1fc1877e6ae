"""One-way against bidirectional fine-tuning, and other ways to keep what was learned, under matched conditions.

Every arm is trained from the same start with several learning rates and seeds; each is judged at the learning rate
that suits it best on data for that, as a lower rate by itself forgets less (Ibrahim et al. 2024, arXiv 2403.08763).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jaxft.data.sources.config import Column
from jaxft.errors import JaxftError, RecipeError
from jaxft.evaluation.evaluator import Evaluator
from jaxft.finetuning.averaging import interpolate
from jaxft.models.model import sharded_target
from jaxft.parallel.trees import Parameters
from jaxft.recipe.comparison import CompareConfig
from jaxft.recipe.library import load_recipe
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.reporting.writers import read_rows
from jaxft.training.start_divergence import HeldToStart
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import held_out_batches
from jaxft.workflows.assembly.checks import lower_is_better
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.assembly.stores import good_rows, store_source
from jaxft.workflows.assembly.trained_run import open_run
from jaxft.workflows.compare.findings import Finding, findings_of
from jaxft.workflows.compare.report import write_comparison
from jaxft.workflows.compare.trials import Trial, check_comparison, recipe_of, trials
from jaxft.workflows.runs.compilation_cache import keep_compiled
from jaxft.workflows.train.train import train_recipe
from jaxft.workflows.weights.loading import open_pretrained

_logger = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison, done or not.

    Attributes:
      directory: of all its runs and its report.
      done: runs that are finished.
      trials: all runs.
      recipe: what was compared.
      finding: what they say; None until all are done.
    """

    directory: pathlib.Path
    done: int
    trials: int
    recipe: Recipe
    finding: Finding | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines; ends of intervals that a single run does not have are None."""
        found = {} if self.finding is None else _without_infinities(dataclasses.asdict(self.finding))
        return {"directory": str(self.directory), "done": self.done, "trials": self.trials, **found}


def compare(
    recipe: str | pathlib.Path,
    overrides: Sequence[str] = (),
    directory: str | pathlib.Path | None = None,
    part: tuple[int, int] = (0, 1),
    jobs: int = 1,
    quiet: bool = False,
) -> Comparison:
    """Trains all arms of a recipe's comparison, goes on where it stopped, and writes `report.html`.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft, with a section `compare`.
      overrides: like `compare.seeds=[0]`.
      directory: where everything goes; `runs/<name>-compare` where None.
      part: `(i, n)`: only every `n`-th run, beginning with run `i`; other hosts that share the directory make the rest,
        and whichever finishes last writes the report.
      jobs: processes of this machine that share the work.
      quiet: no progress on standard error.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    parsed, document = load_recipe(recipe, overrides)
    config = check_comparison(parsed, document)
    base = pathlib.Path(directory or pathlib.Path("runs") / f"{parsed.name}-compare")
    keep_compiled()  # what several runs share is compiled by the first
    planned = list(trials(parsed))
    assembly = assemble(*recipe_of(planned[0], document))
    _check_metrics(assembly, config)
    if jobs > 1:
        _share(recipe, overrides, base, part, jobs)
    # Those that are made of others come last; of shared work, they are what is left.
    for trial in [*_mine(planned, part, made=False), *_mine(planned, part, made=True)]:
        if trial.result(base) is None and _is_ready(trial, base):
            trial.write_result(base, _measured(trial, document, base, quiet))
    results = {trial: result for trial in planned if (result := trial.result(base)) is not None}
    state = Comparison(base, len(results), len(planned), parsed)
    if len(results) < len(planned):
        return state
    lower = {
        metric: lower_is_better(assembly.recipe, assembly.objectives, metric)
        for metric in (config.task, config.retained, config.select, config.probe)
        if metric is not None
    }
    finding = findings_of(config, results, lower)
    write_comparison(finding, parsed, base)
    return dataclasses.replace(state, finding=finding)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_infinities(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mine(planned: list[Trial], part: tuple[int, int], made: bool) -> list[Trial]:
    own = [trial for trial in planned if (trial.share is not None) == made]
    return own[part[0] :: part[1]]


def _is_ready(trial: Trial, base: pathlib.Path) -> bool:
    """Whether what a trial is made of is there; other hosts may still train it."""
    if trial.trained == trial or trial.trained.result(base) is not None:
        return True
    _logger.warning("%s waits for a run of another part; start this part again then", trial.directory(base))
    return False


def _share(
    recipe: str | pathlib.Path, overrides: Sequence[str], base: pathlib.Path, part: tuple[int, int], jobs: int
) -> None:
    """Runs this part as so many smaller ones, at once.

    Raises:
      JaxftError: one of them failed.
    """
    number, parts = part
    processes = []
    for job in range(jobs):
        share = f"{number + parts * job}/{parts * jobs}"
        words = ["compare", str(recipe), *overrides, "--run-dir", str(base), "--shard", share, "--quiet"]
        processes.append(subprocess.Popen([sys.executable, "-m", "jaxft", *words], stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise JaxftError(f"{sum(map(bool, codes))} of {jobs} processes failed; the same command goes on from there")


def _check_metrics(assembly: Assembly, config: CompareConfig) -> None:
    for metric in filter(None, (config.task, config.retained, config.select, config.probe)):
        name, _, short = metric.partition(".")
        section = assembly.recipe.evaluation[name]
        known = section.metrics or assembly.evaluated_objective(name).default_metrics
        if short not in known:
            raise RecipeError(f"compare: {metric!r} is not evaluated; that evaluation gives {', '.join(known)}")


def _measured(trial: Trial, document: Document, base: pathlib.Path, quiet: bool) -> dict[str, Any]:
    """Trains a run, or makes it of another one and the start, and measures it."""
    recipe, document = recipe_of(trial.trained, document)
    if trial.share is None:
        train_recipe(recipe, document, trial.directory(base), quiet)
    opened = open_run(trial.trained.directory(base))
    assert recipe.model.pretrained is not None, "see `check_comparison`"
    # The trunk, and those heads that came with it.
    start = open_pretrained(recipe.model.pretrained, recipe.model.adapter).parameters(
        sharded_target(opened.assembly.plain_model, "float32", opened.assembly.mesh)
    )
    summary = opened.run.summary()
    assert summary is not None, "trained above, or by the trial that this one is made of"
    parameters, evaluation = opened.parameters, summary["evaluation"]
    if trial.share is not None:
        tuned = {name: interpolate(before, parameters[name], trial.share) for name, before in start.items()}
        parameters = {**parameters, **tuned}
        evaluators = make_evaluators(opened.assembly)
        evaluation = {name: evaluator(parameters, opened.origin) for name, evaluator in evaluators.items()}
    rows = [row for row in read_rows(opened.run.metrics) if row["kind"] == "evaluation"]
    return {
        "evaluation": {
            name: {metric: value for metric, value in values.items() if isinstance(value, float)}
            for name, values in evaluation.items()
        },
        "before": {name: value for name, value in rows[0].items() if "." in name},
        "divergence": _divergence(opened.assembly, parameters, {**parameters, **start}),
        "steps": rows[-1]["step"],
        "tokens": _tokens(opened.run.metrics, list(recipe.streams)),
    }


def _tokens(metrics: pathlib.Path, streams: Sequence[str]) -> dict[str, float]:
    """Tokens that were read of each stream, the task first."""
    rows = [row for row in read_rows(metrics) if row["kind"] == "train"]
    return {stream: sum(row.get(f"{stream}.tokens", 0.0) for row in rows) for stream in streams}


def _divergence(assembly: Assembly, parameters: Parameters, start: Parameters) -> float | None:
    """Mean `KL(start || now)` in nats of the pretraining objective's predictions on the task's held-out texts, which
    tells how much is forgotten (Shenfeld et al. 2025, arXiv 2509.04259); None where no stream is replayed, or the task
    has no column of texts, as images, lists of words and conversations have none."""
    task, *others = assembly.recipe.streams
    section = next((section for section in assembly.recipe.evaluation.values() if section.stream == task), None)
    column = next(iter(assembly.recipe.streams[task].objective.text_columns()), None)
    if not others or section is None or column is None:
        return None
    if not isinstance(next(good_rows(section.source, assembly.recipe)).values.get(column), str):
        return None
    replay = assembly.recipe.streams[others[0]]
    (read,) = replay.objective.text_columns()[:1]
    sources = tuple(
        dataclasses.replace(source, columns={Column(read): (source.columns or {}).get(Column(column), column)})
        for source in section.source
    )
    objective = HeldToStart(assembly.objectives[others[0]].for_evaluation(), 0.0)
    source = store_source("the task's texts", sources, objective, assembly.recipe, assembly.tokenizer)
    batches = held_out_batches(assembly, source)
    evaluator = Evaluator("divergence", assembly.model, objective, batches, ("divergence",), assembly.mesh)
    return float(evaluator(parameters, start)["divergence"])
