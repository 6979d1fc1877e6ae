"""The whole loop in minutes: three recipes, run one after the other, and what they show.

`configs/quickstart.yaml` pretrains; `configs/finetune/packages.yaml` and `configs/bidirectional/packages.yaml` fine-tune from that one
checkpoint with equal task tokens. A fourth run fine-tunes the same model without pretraining.
"""

from __future__ import annotations

import math
import pathlib
import time
from typing import Any

from jaxft.evaluation.baselines import majority_share, unigram_loss
from jaxft.recipe.library import path_of
from jaxft.reporting.html_report import Figure, Report, Section, Table, Tile, write_report
from jaxft.reporting.plots import plot_retention
from jaxft.reporting.progress import format_duration
from jaxft.reporting.tables import text_table
from jaxft.reporting.writers import read_rows
from jaxft.workflows.opened import open_run
from jaxft.workflows.run_directory import RunDirectory
from jaxft.workflows.train import train

_ARMS = ("start", "from_scratch", "one_way", "bidirectional")


def quickstart(run_directory: str | pathlib.Path = "runs/quickstart", quiet: bool = False) -> dict[str, Any]:
    """Pretrains, fine-tunes both ways and from scratch, evaluates, and writes `report.html`.

    Args:
      run_directory: where the runs go, each into a directory of its own; finished ones are not run again.
      quiet: no progress on standard error.

    Returns:
      `start`, `one_way`, `bidirectional` and `from_scratch`, each with `task` (metrics) and `retained` (masked-LM loss in nats on
      held-out pretraining text), `baselines`, `seconds` and `run_dir`.
    """
    started = time.time()
    base = pathlib.Path(run_directory)
    pretrain, one_way, bidirectional = base / "pretrain", base / "one-way", base / "bidirectional"
    train(path_of("quickstart"), (), pretrain, quiet)
    pretrained = (f"model.pretrained={pretrain}",)
    train(path_of("finetune/packages"), pretrained, one_way, quiet)
    train(path_of("bidirectional/packages"), pretrained, bidirectional, quiet)
    train(path_of("finetune/packages"), _from_scratch(pretrain), base / "from-scratch", quiet)
    arms = {
        "start": _arm(one_way, first=True),
        "one_way": _arm(one_way),
        "bidirectional": _arm(bidirectional),
        "from_scratch": _arm(base / "from-scratch"),
    }
    result = {
        **arms,
        "baselines": _baselines(pretrain, one_way),
        "seconds": round(time.time() - started, 1),
        "run_dir": str(base),
    }
    _write_report(base, result)
    return result


def _from_scratch(pretrain: pathlib.Path) -> tuple[str, ...]:
    """Overrides that replace the pretrained model by a fresh one of the same shape."""
    opened = open_run(pretrain)
    config = opened.assembly.model.config
    fields = ("embed_dim", "num_layers", "num_heads", "mlp_dim", "max_length")
    shape = ", ".join(f"{name}: {getattr(config, name)}" for name in fields)
    return (
        "name=quickstart-from-scratch",
        f"model={{preset: encoder-tiny, {shape}}}",
        f"tokenizer={{path: {opened.run.tokenizer.absolute()}}}",
    )


def _arm(path: pathlib.Path, first: bool = False) -> dict[str, Any]:
    """Task metrics and retained loss at the start or the end of a run."""
    rows = [row for row in read_rows(RunDirectory(path).metrics) if row["kind"] == "evaluation"]
    row = rows[0 if first else -1]
    task = {name.partition(".")[2]: value for name, value in row.items() if name.startswith("task.")}
    return {"task": task, "retained": row["retained.loss"]}


def _baselines(pretrain: pathlib.Path, one_way: pathlib.Path) -> dict[str, float]:
    opened = open_run(pretrain)
    evaluator = opened.assembly.evaluators()["retained"]
    training = opened.assembly.batches()["text"]
    unigram = unigram_loss(training, evaluator.batches, opened.assembly.tokenizer.vocab_size)
    task = open_run(one_way).assembly.evaluators()["task"]
    return {
        "unigram_loss": unigram,
        "majority_accuracy": majority_share(task.batches),
        "task_examples": task.batches.rows,
    }


def describe(result: dict[str, Any]) -> str:
    """The result as text for a terminal."""
    return "\n\n".join([text_table(_HEADER, _rows(result)), *_conclusions(result), f"report: {result['run_dir']}/report.html"])


_HEADER = ("model", "task accuracy", "task macro F1", "retained loss", "retained perplexity")


def _rows(result: dict[str, Any]) -> list[tuple]:
    return [
        (
            arm.replace("_", " "), result[arm]["task"]["accuracy"], result[arm]["task"]["macro_f1"],
            result[arm]["retained"], math.exp(result[arm]["retained"]),
        )
        for arm in _ARMS
    ]  # fmt: skip


def _conclusions(result: dict[str, Any]) -> tuple[str, ...]:
    start, one_way, both, scratch = (result[arm] for arm in ("start", "one_way", "bidirectional", "from_scratch"))
    baselines = result["baselines"]
    accuracy = {name: result[name]["task"]["accuracy"] for name in ("one_way", "bidirectional", "from_scratch")}
    learned = (
        f"Pretraining: the held-out masked-LM loss is {start['retained']:.2f} nats, where knowing only how often each token "
        f"occurs gives {baselines['unigram_loss']:.2f}. On the task, the most frequent label alone would be right for "
        f"{baselines['majority_accuracy']:.1%}; the same model without pretraining reaches {accuracy['from_scratch']:.1%}, "
        f"with it {accuracy['one_way']:.1%} (one-way) and {accuracy['bidirectional']:.1%} (bidirectional)."
    )
    lost, kept = one_way["retained"] - start["retained"], both["retained"] - start["retained"]
    forgetting = (
        f"Forgetting: one-way fine-tuning changes the pretraining loss by {lost:+.2f} nats, bidirectional fine-tuning by "
        f"{kept:+.2f}. (From scratch it is {scratch['retained']:.2f}: that model never learned it.)"
    )
    return learned, forgetting, _task_verdict(accuracy["one_way"], accuracy["bidirectional"], baselines["task_examples"])


def _task_verdict(one_way: float, both: float, examples: int) -> str:
    """Whether the difference on the task is larger than chance; conservative, as both arms see the same examples."""
    margin = 1.96 * math.sqrt((one_way * (1 - one_way) + both * (1 - both)) / examples)
    difference = both - one_way
    verdict = "the evidence does not separate the two" if abs(difference) <= margin else (
        "bidirectional is ahead" if difference > 0 else "one-way is ahead"
    )  # fmt: skip
    return (
        f"On the task the two differ by {100 * difference:+.1f} points, where chance alone moves {examples} examples by up to "
        f"{100 * margin:.1f}: {verdict}. This is one seed and one learning rate, a demonstration and not a measurement."
    )


def _write_report(base: pathlib.Path, result: dict[str, Any]) -> None:
    arms = {arm: {"task": result[arm]["task"]["accuracy"], "retained": result[arm]["retained"]} for arm in _ARMS}
    plots = base / "plots"
    plots.mkdir(exist_ok=True)
    shown = {name.replace("_", " "): values for name, values in arms.items() if name != "from_scratch"}
    plot_retention(shown, plots / "retention.png", "accuracy", "masked-LM loss")
    runs = ("pretrain", "one-way", "bidirectional", "from-scratch")
    figures = tuple(
        Figure(f"{run}: losses", base / run / "plots" / "loss.png", f"Steps of {run}; diamonds are held-out evaluations.")
        for run in runs
    )
    report = Report(
        title="jaxft quickstart",
        subtitle="Pretraining a small encoder on Python's own documentation, then fine-tuning it one-way and bidirectionally",
        summary=_conclusions(result),
        tiles=(
            Tile("One-way accuracy", f"{arms['one_way']['task']:.1%}"),
            Tile("Bidirectional accuracy", f"{arms['bidirectional']['task']:.1%}"),
            Tile("One-way forgot", f"{arms['one_way']['retained'] - arms['start']['retained']:+.2f}", "nats of masked-LM loss"),
            Tile("Bidirectional forgot", f"{arms['bidirectional']['retained'] - arms['start']['retained']:+.2f}", "nats of masked-LM loss"),
            Tile("Time", format_duration(result["seconds"])),
        ),
        sections=(
            Section(
                "What was gained, what was kept",
                text=(
                    "The task: which package of the standard library does a docstring belong to? What is kept: the loss of "
                    "predicting masked words in documentation that was never trained on. All arms see the same task "
                    "examples in the same order; only the bidirectional one also reads pretraining text."
                ),
                tables=(Table("", _HEADER, tuple(_rows(result)), "Accuracy and F1: higher is better. Loss: lower is better."),),
                figures=(Figure("", plots / "retention.png", "Up is better on the task; left is better kept."),),
            ),
            Section("Each run", "Every run has its own report.html beside its checkpoints.", figures=figures),
        ),
    )
    write_report(report, base / "report.html")
