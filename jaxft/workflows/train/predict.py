"""Predicting with a trained run, from a file of examples to JSON lines."""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.data.batches import StreamBatches
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row, read_rows, source_of_file, unlabelled_images
from jaxft.errors import RecipeError
from jaxft.evaluation.evaluator import Evaluator
from jaxft.objectives.objective import Objective
from jaxft.parallel.processes import is_first
from jaxft.workflows.assembly.batches import EVALUATION_SEED
from jaxft.workflows.assembly.evaluators import answer_writer
from jaxft.workflows.assembly.stores import plan
from jaxft.workflows.assembly.trained_run import TrainedRun, open_run


def predict(
    run: str | pathlib.Path,
    source: str | pathlib.Path,
    output: str | pathlib.Path | None = None,
    stream: str | None = None,
    step: int | None = None,
) -> int:
    """Writes each input row with what the model says of it: a `label` and `probabilities`, an `answer`, `tags` ...

    Where a row has a column of the same name already, that becomes `given_label` and so on.

    Args:
      run: a run directory.
      source: a file with the columns that the stream's objective reads, those that are to be predicted aside; its name
        tells its format (`jaxft.data.sources.source_of_file`). Or a folder of images.
      output: file to write; standard output where None.
      stream: which task; the only one where None.
      step: which checkpoint; the best or the last where None.

    Returns:
      Number of rows.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    opened = open_run(run, step=step)
    objective = _predictor(opened, stream)
    # All rows are read, and so checked, before the output is touched.
    rows = list(_rows(str(source)))
    lines = [
        json.dumps(_joined(row.values, predicted), ensure_ascii=False) + "\n"
        for row, predicted in zip(rows, _predictions(rows, objective, opened, str(source)), strict=True)
    ]
    if not is_first():
        return len(rows)
    if output is None:
        sys.stdout.writelines(lines)
        return len(rows)
    partial = pathlib.Path(f"{output}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise RecipeError(f"{output} cannot be written: {error.strerror}") from error
    partial.replace(output)
    return len(rows)


def _rows(name: str) -> Iterator[Row]:
    """The rows of a file, of a folder of images in subfolders, or of one that holds the images themselves."""
    path = pathlib.Path(name)
    if path.is_dir() and any(file.is_file() and not file.name.startswith(".") for file in path.iterdir()):
        return unlabelled_images(path)
    return read_rows(source_of_file(name), pathlib.Path())


def _predictor(opened: TrainedRun, stream: str | None) -> Objective:
    known = {name: objective for name, objective in opened.assembly.objectives.items() if objective.predicts}
    if not known:
        raise RecipeError(f"{opened.run.path} has no stream of a task; predict needs one")
    if stream is None and len(known) > 1:
        raise RecipeError(f"{opened.run.path} has several tasks; choose with --stream: {', '.join(known)}")
    if stream is not None and stream not in known:
        raise RecipeError(f"--stream {stream}: not a task of this run, which has {', '.join(known)}")
    return known[stream or next(iter(known))].for_evaluation()


def _predictions(rows: Sequence[Row], objective: Objective, opened: TrainedRun, where: str) -> list[dict[str, Any]]:
    """What the model says of each row."""
    assembly, size = opened.assembly, 8 * opened.assembly.mesh.size
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "store"
        store = open_or_build(path, lambda: rows, objective.unlabelled_fields, assembly.tokenizer, where)
        rows_of_batches = plan(where, store, objective, EVALUATION_SEED)
        batches = StreamBatches(
            store, rows_of_batches, objective.make_row, size, EVALUATION_SEED, shuffle=False, partner=objective.partner
        )
        write = answer_writer(assembly, objective, None, size)
        evaluator = Evaluator("predictions", assembly.model, objective, batches, (), assembly.mesh, write)
        return evaluator.predictions(opened.parameters)


def _joined(given: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, Any]:
    """A row with a prediction; columns of the same name are kept under another, and arrays are left out."""
    given = {name: value for name, value in given.items() if not isinstance(value, np.ndarray)}
    kept = {f"given_{name}": value for name, value in given.items() if name in predicted}
    return {**given, **predicted, **kept}
