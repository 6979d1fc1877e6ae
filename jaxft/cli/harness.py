"""`jaxft harness`: scores of a model by tasks of lm-evaluation-harness."""

from __future__ import annotations

import argparse
import json

from jaxft.errors import RecipeError
from jaxft.reporting.tables import text_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft harness`."""
    parser.add_argument("model", help="a directory in Hugging Face layout, an id on the hub, or a run")
    parser.add_argument(
        "--tasks", required=True, help="names with commas between them, as `lm_eval ls tasks` lists them"
    )
    parser.add_argument("--include", metavar="DIR", help="directory with tasks of your own, in YAML")
    parser.add_argument("--shots", type=int, help="examples before each question (default: as the task has it)")
    parser.add_argument("--limit", type=int, help="only so many examples of each task")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="texts at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def harness(options: argparse.Namespace) -> None:
    """`jaxft harness`"""
    for name in ("limit", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise RecipeError(f"--{name.replace('_', '-')}: must be at least 1, found {getattr(options, name)}")
    from jaxft.workflows.inference.harness import evaluate_tasks

    tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
    found = evaluate_tasks(
        options.model, tasks, options.shots, options.limit, options.include, options.dtype, options.batch_size
    )
    if options.json:
        print(json.dumps(found, indent=2))
        return
    rows = [(task, name, value) for task, metrics in found.items() for name, value in metrics.items()]
    print(text_table(("task", "metric", "value"), rows))
