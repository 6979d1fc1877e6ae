"""Evaluating a trained run."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.errors import RecipeError
from jaxft.workflows.opened import open_run


def evaluate(run: str | pathlib.Path, overrides: Sequence[str] = (), step: int | None = None) -> dict[str, Any]:
    """Runs all evaluations of a run's recipe on one of its checkpoints.

    Args:
      run: a run directory.
      overrides: of its recipe, like `evaluation.reviews.source={jsonl: test.jsonl}`.
      step: which checkpoint; the best or the last where None.

    Returns:
      `run_dir`, `step` and `evaluation`: metrics by evaluation.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    opened = open_run(run, overrides, step)
    evaluators = opened.assembly.evaluators()
    if not evaluators:
        raise RecipeError(
            f"the recipe of {run} has no evaluation; add one: 'evaluation.NAME={{stream: ..., source: ...}}'"
        )
    results = {name: evaluator(opened.parameters) for name, evaluator in evaluators.items()}
    return {"run_dir": str(opened.run.path), "step": opened.step, "evaluation": results}
