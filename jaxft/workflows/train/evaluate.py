"""Evaluating a trained run."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.errors import RecipeError
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.trained_run import open_run


def evaluate(
    run: str | pathlib.Path,
    overrides: Sequence[str] = (),
    step: int | None = None,
    confidence: float | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Runs all evaluations of a run's recipe on one of its checkpoints.

    Args:
      run: a run directory.
      overrides: of its recipe, like `evaluation.reviews.source={jsonl: test.jsonl}`.
      step: which checkpoint; the best or the last where None.
      confidence: of intervals beside the metrics that are numbers, such as 0.95; none where None.
      resamples: draws of the examples that they come from.

    Returns:
      `run_dir`, `step` and `evaluation`: metrics by evaluation; with a confidence also `intervals`: `low` and `high` of
      each metric, by evaluation.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    if confidence is not None and not 0 < confidence < 1:
        raise RecipeError(f"--confidence must lie between 0 and 1, like 0.95; found {confidence:g}")
    if resamples < 1:
        raise RecipeError(f"--resamples must be at least 1, found {resamples}")
    opened = open_run(run, overrides, step)
    evaluators = make_evaluators(opened.assembly)
    if not evaluators:
        raise RecipeError(
            f"the recipe of {run} has no evaluation; add one: 'evaluation.NAME={{stream: ..., source: ...}}'"
        )
    results = {name: evaluator(opened.parameters, opened.origin) for name, evaluator in evaluators.items()}
    found = {"run_dir": str(opened.run.path), "step": opened.step, "evaluation": results}
    if confidence is None:
        return found
    intervals = {
        name: {
            metric: {"low": interval.low, "high": interval.high}
            for metric, interval in evaluator.intervals(opened.parameters, confidence, resamples, opened.origin).items()
        }
        for name, evaluator in evaluators.items()
    }
    return {**found, "confidence": confidence, "intervals": intervals}
