"""Predicting with a trained classifier, from JSON lines to JSON lines."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import TextIO

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, SourceConfig, read_rows
from jaxft.data.store import Record
from jaxft.errors import RecipeError
from jaxft.objectives.sequence_classification import SequenceClassification
from jaxft.parallel.sharding import put_batch
from jaxft.training.step import bind
from jaxft.workflows.opened import OpenedRun, open_run


def predict(
    run: str | pathlib.Path,
    source: str | pathlib.Path,
    output: str | pathlib.Path | None = None,
    stream: str | None = None,
    step: int | None = None,
) -> int:
    """Writes each input row with its predicted `label` and the `probabilities` of all labels.

    Args:
      run: a run directory.
      source: JSON lines with the columns that the stream's objective reads; a label is not needed.
      output: file to write; standard output where None.
      stream: which classifier; the only one where None.
      step: which checkpoint; the best or the last where None.

    Returns:
      Number of rows.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    opened = open_run(run, step=step)
    objective = _classifier(opened, stream)
    # All rows are read, and so checked, before the output is touched.
    rows = list(read_rows(SourceConfig(jsonl=(str(source),)), pathlib.Path()))
    records = _records(rows, objective, opened)
    if output is None:
        return _write(sys.stdout, rows, records, objective, opened)
    partial = pathlib.Path(f"{output}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            count = _write(file, rows, records, objective, opened)
    except OSError as error:
        raise RecipeError(f"{output} cannot be written: {error.strerror}") from error
    partial.replace(output)
    return count


def _classifier(opened: OpenedRun, stream: str | None) -> SequenceClassification:
    known = {name: o for name, o in opened.assembly.objectives.items() if isinstance(o, SequenceClassification)}
    if not known:
        raise RecipeError(f"{opened.run.path} has no stream that classifies; predict needs one")
    if stream is None and len(known) > 1:
        raise RecipeError(f"{opened.run.path} has several classifiers; choose with --stream: {', '.join(known)}")
    if stream is not None and stream not in known:
        raise RecipeError(f"--stream {stream}: not a classifier of this run, which has {', '.join(known)}")
    return known[stream or next(iter(known))]


def _records(rows: list[Row], objective: SequenceClassification, opened: OpenedRun) -> list[Record]:
    fields = [objective.unlabelled_fields(row) for row in rows]
    names = list(fields[0].texts)
    tokens = {name: opened.assembly.tokenizer.encode([one.texts[name] for one in fields]) for name in names}
    longest = objective.longest
    return [{**{name: tokens[name][i][:longest] for name in names}, **one.values} for i, one in enumerate(fields)]


def _write(
    file: TextIO, rows: list[Row], records: list[Record], objective: SequenceClassification, opened: OpenedRun
) -> int:
    for row, probabilities in zip(rows, _probabilities(records, objective, opened), strict=True):
        shown = {label: round(float(p), 6) for label, p in zip(objective.labels, probabilities, strict=True)}
        label = objective.labels[int(probabilities.argmax())]
        line = {**row.values, "label": label, "probabilities": shown}
        if "label" in row.values:
            line["given_label"] = row.values["label"]
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(rows)


def _probabilities(records: list[Record], objective: SequenceClassification, opened: OpenedRun) -> Iterator[np.ndarray]:
    """float32 `(labels,)` for each record."""
    model, mesh, size = opened.assembly.model, opened.assembly.mesh, 8 * opened.assembly.mesh.size

    @jax.jit
    def compute(parameters, batch):
        return jax.nn.softmax(objective.outputs(bind(model, parameters), batch)["logits"])

    for start in range(0, len(records), size):
        chunk = records[start : start + size]
        rows: list[Batch] = [objective.make_row([record], []) for record in chunk]
        rows += [rows[-1]] * (size - len(rows))
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        with jax.set_mesh(mesh):
            yield from np.asarray(compute(opened.parameters, put_batch(batch, mesh)))[: len(chunk)]
