"""What the quickstart shows: a table, the conclusions that the numbers bear, and a page."""

from __future__ import annotations

import math
import pathlib
from typing import Any

from jaxft.reporting.comparison_plots import plot_retention
from jaxft.reporting.html_report import Figure, Report, Section, Table, Tile, write_report
from jaxft.reporting.progress import format_duration
from jaxft.reporting.tables import text_table

_ARMS = ("start", "from_scratch", "one_way", "bidirectional")
_HEADER = ("model", "task accuracy", "task macro F1", "retained loss", "retained perplexity")
_TASK = (
    "The task: which package of the standard library does a docstring belong to? What is kept: the loss of predicting "
    "masked words in documentation that was never trained on. All arms see the same task examples in the same order; "
    "only the bidirectional one also reads pretraining text."
)


def quickstart_text(result: dict[str, Any]) -> str:
    """The result of `jaxft.workflows.compare.quickstart.quickstart` as text for a terminal."""
    report = f"report: {result['run_dir']}/report.html"
    return "\n\n".join([text_table(_HEADER, _rows(result)), *conclusions(result), report])


def _rows(result: dict[str, Any]) -> list[tuple]:
    rows = []
    for arm in _ARMS:
        task, retained = result[arm]["task"], result[arm]["retained"]
        rows.append((arm.replace("_", " "), task["accuracy"], task["macro_f1"], retained, math.exp(retained)))
    return rows


def conclusions(result: dict[str, Any]) -> tuple[str, ...]:
    """What the numbers say and what they do not, a paragraph each: pretraining, forgetting, the task."""
    start, one_way, both, scratch = (result[arm] for arm in ("start", "one_way", "bidirectional", "from_scratch"))
    baselines = result["baselines"]
    accuracy = {name: result[name]["task"]["accuracy"] for name in ("one_way", "bidirectional", "from_scratch")}
    pretraining = (
        f"Pretraining: the held-out masked-LM loss is {start['retained']:.2f} nats, where knowing only how often each "
        f"token occurs gives {baselines['unigram_loss']:.2f}. On the task, the most frequent label alone would be "
        f"right for {baselines['majority_accuracy']:.1%}; the same model without pretraining reaches "
        f"{accuracy['from_scratch']:.1%}, with it {accuracy['one_way']:.1%} (one-way) and "
        f"{accuracy['bidirectional']:.1%} (bidirectional)."
    )
    lost, kept = one_way["retained"] - start["retained"], both["retained"] - start["retained"]
    forgetting = (
        f"Forgetting: one-way fine-tuning changes the pretraining loss by {lost:+.2f} nats, bidirectional fine-tuning "
        f"by {kept:+.2f}{_still_learning(kept)}. "
        f"From scratch it is {scratch['retained']:.2f}: that model never learned it."
    )
    return (
        pretraining,
        forgetting,
        _task_verdict(accuracy["one_way"], accuracy["bidirectional"], baselines["task_examples"]),
    )


def _still_learning(kept: float) -> str:
    """A gain is no retention: the short pretraining had not converged, and replay continues it."""
    return " (it gains, because its replay continues a pretraining that was cut short)" if kept < 0 else ""


def _task_verdict(one_way: float, both: float, examples: int) -> str:
    """Whether the difference on the task is larger than chance; conservative, as both arms see the same examples."""
    margin = 1.96 * math.sqrt((one_way * (1 - one_way) + both * (1 - both)) / examples)
    difference = both - one_way
    if abs(difference) <= margin:
        verdict = "the evidence does not separate the two"
    else:
        verdict = "bidirectional is ahead" if difference > 0 else "one-way is ahead"
    return (
        f"Task: the two differ by {100 * difference:+.1f} points, where chance moves {examples} examples by up "
        f"to {100 * margin:.1f}: {verdict}. One seed and one learning rate are a demonstration, not a measurement."
    )


def write_comparison(result: dict[str, Any], directory: pathlib.Path) -> None:
    """Draws the comparison and writes `report.html` into the quickstart's directory."""
    plots = directory / "plots"
    plots.mkdir(exist_ok=True)
    arms = {
        arm.replace("_", " "): {"task": result[arm]["task"]["accuracy"], "retained": result[arm]["retained"]}
        for arm in _ARMS
        if arm != "from_scratch"  # it kept nothing, having had nothing, and would only stretch the axes
    }
    plot_retention(arms, plots / "retention.png", "accuracy", "masked-LM loss")
    table = Table("", _HEADER, tuple(_rows(result)), "Accuracy and F1: higher is better. Loss: lower is better.")
    map_of_arms = Figure("", plots / "retention.png", "Up is better on the task; left is better kept.")
    report = Report(
        title="jaxft quickstart",
        subtitle="A small encoder, pretrained on Python's own documentation and fine-tuned in two ways",
        summary=conclusions(result),
        tiles=_tiles(result),
        sections=(
            Section("What was gained, what was kept", _TASK, tables=(table,), figures=(map_of_arms,)),
            Section(
                "Each run", "Every run has its own report.html beside its checkpoints.", figures=_losses(directory)
            ),
        ),
    )
    write_report(report, directory / "report.html")


def _tiles(result: dict[str, Any]) -> tuple[Tile, ...]:
    tiles = []
    for arm, name in (("one_way", "One-way"), ("bidirectional", "Bidirectional")):
        forgot = result[arm]["retained"] - result["start"]["retained"]
        tiles.append(Tile(f"{name} accuracy", f"{result[arm]['task']['accuracy']:.1%}"))
        tiles.append(Tile(f"{name} forgot", f"{forgot:+.2f}", "nats of masked-LM loss"))
    return (*tiles, Tile("Time", format_duration(result["seconds"])))


def _losses(directory: pathlib.Path) -> tuple[Figure, ...]:
    runs = ("pretrain", "one-way", "bidirectional", "from-scratch")
    caption = "Training loss by step; diamonds are held-out evaluations."
    return tuple(Figure(f"{run}: losses", directory / run / "plots" / "loss.png", caption) for run in runs)
