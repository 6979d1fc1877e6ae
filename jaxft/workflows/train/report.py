"""The pages that a person reads after a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxft.recipe.library import recipe_to_text
from jaxft.recipe.schema import Recipe
from jaxft.reporting.confusion_plot import plot_confusion
from jaxft.reporting.html_report import Figure, Report, Section, Table, Tile, write_report
from jaxft.reporting.plots import plot_evaluations, plot_rates, plot_training
from jaxft.reporting.progress import format_count, format_duration
from jaxft.reporting.tables import format_value
from jaxft.reporting.writers import read_rows
from jaxft.workflows.runs.run_directory import RunDirectory


def write_run_report(
    run: RunDirectory,
    recipe: Recipe,
    summary: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    labels: Mapping[str, tuple[str, ...]],
) -> None:
    """Draws the plots of a finished run and writes its `report.html`.

    Args:
      run: its directory, with `metrics.jsonl`.
      recipe: resolved.
      summary: as `summary.json`.
      history: evaluations, each with `step` and metrics like `reviews.accuracy`.
      labels: of the evaluations of classifiers, by name.
    """
    rows = read_rows(run.metrics)
    run.plots.mkdir(exist_ok=True)
    drawn = [
        _figure(plot_training, rows, run.plots / "loss.png", "Mean loss of each stream; diamonds are evaluations."),
        _figure(plot_evaluations, rows, run.plots / "evaluation.png", "Held-out metrics."),
        _figure(plot_rates, rows, run.plots / "rates.png", "Learning rate, and gradient norms before clipping."),
    ]
    sections = [
        Section("Evaluation", tables=_evaluation_tables(summary), figures=_confusions(run, summary, labels)),
        Section("Training", figures=tuple(figure for figure in drawn if figure is not None)),
        Section("Recipe", code=recipe_to_text(recipe)),
        Section("Environment", code=json.dumps(json.loads((run.path / "environment.json").read_text()), indent=2)),
    ]
    speeds = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
    tiles = [
        Tile("Steps", summary["steps"], "stopped early" if summary["stopped_early"] else ""),
        Tile("Parameters", format_count(summary["parameters"])),
        Tile("Time", format_duration(summary["seconds"])),
    ]
    if speeds:
        tiles.append(Tile("Speed", format_count(sorted(speeds)[len(speeds) // 2]), "tokens per second, median"))
    streams = " and ".join(f"{name} ({stream.objective.kind})" for name, stream in recipe.streams.items())
    report = Report(
        title=recipe.name,
        subtitle=f"Trained on {streams}",
        summary=_conclusions(summary, history),
        tiles=tuple(tiles),
        sections=tuple(sections),
    )
    write_report(report, run.path / "report.html")


def _figure(draw: Callable, rows: Sequence[Mapping[str, Any]], path: Path, caption: str) -> Figure | None:
    return Figure(title="", path=path, caption=caption) if draw(rows, path) else None


def _evaluation_tables(summary: Mapping[str, Any]) -> tuple[Table, ...]:
    rows = [
        (evaluation, metric, value)
        for evaluation, metrics in summary["evaluation"].items()
        for metric, value in metrics.items()
        if isinstance(value, float)
    ]
    if not rows:
        return ()
    return (Table(f"At step {summary['used_step']}", ("evaluation", "metric", "value"), tuple(rows)),)


def _confusions(
    run: RunDirectory, summary: Mapping[str, Any], labels: Mapping[str, tuple[str, ...]]
) -> tuple[Figure, ...]:
    figures = []
    for name, metrics in summary["evaluation"].items():
        if "confusion_matrix" in metrics:
            path = run.plots / f"confusion-{name}.png"
            plot_confusion(metrics["confusion_matrix"], labels[name], path)
            figures.append(Figure("", path, f"{name}: rows are the true labels, columns what was predicted."))
    return tuple(figures)


def _conclusions(summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What changed from the first evaluation to the used one, in words."""
    if not history:
        return ("This recipe has no evaluation, so the losses below are those of the training data.",)
    first = history[0]
    sentences = []
    for evaluation, metrics in summary["evaluation"].items():
        name = "accuracy" if "accuracy" in metrics and "perplexity" not in metrics else "loss"
        if name in metrics:
            before, after = first[f"{evaluation}.{name}"], metrics[name]
            sentences.append(
                f"{evaluation}: {name} {format_value(after)} at step {summary['used_step']} "
                f"({format_value(before)} at step {first['step']})."
            )
    return (" ".join(sentences),) if sentences else ()
