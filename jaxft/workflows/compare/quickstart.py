"""The whole loop in minutes: three recipes, run one after the other, and what they show.

`configs/quickstart.yaml` pretrains; `configs/finetune/packages.yaml` and `configs/bidirectional/packages.yaml`
fine-tune from that one checkpoint with equal task tokens. A fourth run fine-tunes the same model without pretraining.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

from jaxft.evaluation.baselines import majority_share, unigram_loss
from jaxft.recipe.library import path_of
from jaxft.reporting.writers import read_rows
from jaxft.workflows.assembly.batches import make_batches
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.trained_run import open_run
from jaxft.workflows.compare.quickstart_report import write_comparison
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.train.train import train


def quickstart(run_directory: str | pathlib.Path = "runs/quickstart", quiet: bool = False) -> dict[str, Any]:
    """Pretrains, fine-tunes both ways and from scratch, evaluates, and writes `report.html`.

    Args:
      run_directory: where the runs go, each into a directory of its own; finished ones are not run again.
      quiet: no progress on standard error.

    Returns:
      `start`, `one_way`, `bidirectional` and `from_scratch`, each with `task` (metrics) and `retained` (masked-LM loss
      in nats on held-out pretraining text), `baselines`, `seconds` and `run_dir`.
    """
    started = time.monotonic()
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
        "seconds": round(time.monotonic() - started, 1),
        "run_dir": str(base),
    }
    write_comparison(result, base)
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
    evaluator = make_evaluators(opened.assembly)["retained"]
    training = make_batches(opened.assembly)["text"]
    unigram = unigram_loss(training, evaluator.batches, opened.assembly.tokenizer.vocab_size)
    task = make_evaluators(open_run(one_way).assembly)["task"]
    return {
        "unigram_loss": unigram,
        "majority_accuracy": majority_share(task.batches),
        "task_examples": task.batches.rows,
    }
