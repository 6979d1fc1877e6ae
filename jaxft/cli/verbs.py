"""What each verb calls and prints. Workflows are imported where they are called: they bring JAX with them."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import sys
from typing import Any

from jaxft.errors import RecipeError
from jaxft.reporting.tables import text_table


def quickstart(options: argparse.Namespace) -> None:
    """`jaxft quickstart`"""
    from jaxft.workflows.compare.quickstart import quickstart
    from jaxft.workflows.compare.quickstart_report import quickstart_text

    result = quickstart(options.run_dir, options.quiet)
    print(_json(result) if options.json else quickstart_text(result))


def train(options: argparse.Namespace) -> None:
    """`jaxft train`"""
    from jaxft.workflows.train.train import train

    if options.dry_run:
        return _dry_run(options)
    summary = train(options.recipe, options.overrides, options.run_dir, options.quiet)
    if options.json:
        print(_json(summary))
        return
    done = "was already finished; nothing was done" if summary.get("already_finished") else "is finished"
    early = ", stopped early" if summary["stopped_early"] else ""
    print(f"{summary['run_dir']} {done}: {summary['steps']} steps{early} in {summary['seconds']:.0f} s")
    print(_evaluation_table(summary["evaluation"], f"at step {summary['used_step']}"))
    print(f"report: {summary['run_dir']}/report.html")


def _dry_run(options: argparse.Namespace) -> None:
    from jaxft.recipe.library import recipe_to_text
    from jaxft.workflows.train.dry_run import dry_run

    plan = dry_run(options.recipe, options.overrides)
    text = recipe_to_text(plan.recipe)
    if options.json:
        print(
            _json(
                {
                    "recipe": text,
                    "parameters": sum(plan.parameters.values()),
                    "parameters_by_part": plan.parameters,
                    "batches": plan.batches,
                    "tokens_per_step": plan.tokens_per_step,
                    "steps": plan.steps,
                    "policy": plan.policy,
                }
            )
        )
        return
    print(text)
    total = sum(plan.parameters.values())
    print(text_table(("part", "parameters"), [*plan.parameters.items(), ("all", total)]))
    if any(rate != 1 or begin or decay is not None for _, _, rate, begin, decay in plan.policy):
        moves = [
            (part, size, f"{rate:.3g}" if rate else "frozen", begin if rate else "", "" if decay is None else decay)
            for part, size, rate, begin, decay in plan.policy
        ]
        print("\n" + text_table(("part", "parameters", "rate times", "from step", "weight decay"), moves))
    rows = [
        (stream, name, " x ".join(map(str, shape)))
        for stream, arrays in plan.batches.items()
        for name, shape in arrays.items()
    ]
    print("\n" + text_table(("stream", "array", "shape"), rows))
    print(f"\n{plan.tokens_per_step} tokens per step, {plan.steps} steps")


def prepare(options: argparse.Namespace) -> None:
    """`jaxft prepare`"""
    from jaxft.workflows.prepare.prepare import prepare

    found = prepare(options.recipe, options.overrides, options.workers, options.shard)
    if options.json:
        print(_json({"stores": found}))
        return
    columns = ("source", "status", "rows", "records", "tokens", "seconds")
    rows = [[one.get(column, "") for column in columns] + [sum(one.get("bad", {}).values())] for one in found]
    print(text_table((*columns, "bad rows"), rows))


def data_show(options: argparse.Namespace) -> None:
    """`jaxft data show`"""
    from jaxft.workflows.prepare.data_show import as_json, rows_text, show_data

    shown = show_data(options.recipe, options.overrides, options.rows, options.step)
    print(_json({"rows": as_json(shown)}) if options.json else rows_text(shown, sys.stdout.isatty()))


def data_stats(options: argparse.Namespace) -> None:
    """`jaxft data stats`"""
    from jaxft.workflows.prepare.data_stats import data_stats

    found = data_stats(options.recipe, options.overrides, options.picture)
    if options.json:
        print(_json(found))
        return
    stores = found["stores"]
    named = [
        ("rows", "rows"),
        ("bad rows", "bad"),
        ("records", "records"),
        ("tokens", "tokens"),
        ("shortest", "minimum"),
        ("median", "median"),
        ("mean", "mean"),
        ("95%", "95%"),
        ("longest", "maximum"),
        ("rows of a batch", "packed_rows"),
        ("fill", "fill"),
        ("cut", "cut"),
        ("split", "split"),
        ("duplicates", "duplicates"),
        ("unknown tokens", "unknown"),
        ("scripts", "scripts"),
    ]
    flat = [{**store, **store["lengths"]} for store in stores]
    print(
        text_table(
            ["", *(store["source"] for store in stores)],
            [[label, *(_shown(store[key], key) for store in flat)] for label, key in named],
        )
    )
    columns = ("name", "rows_per_step", "share_of_rows", "epochs")
    print(
        "\n"
        + text_table(
            ("stream", "rows per step", "share of rows", "epochs"),
            [[stream[column] for column in columns] for stream in found["streams"]],
        )
    )
    if options.picture:
        print(f"\nhistograms: {options.picture}")


def _shown(value: Any, key: str) -> Any:
    if key == "bad":
        return ", ".join(f"{count} {reason}" for reason, count in value.items()) or 0
    if key == "scripts":
        return ", ".join(f"{name} {share:.0%}" for name, share in value.items() if share >= 0.005)
    return value


def evaluate(options: argparse.Namespace) -> None:
    """`jaxft evaluate`"""
    from jaxft.workflows.train.evaluate import evaluate

    result = evaluate(options.run, options.overrides, options.step, options.confidence, options.resamples)
    if options.json:
        print(_json(result))
        return
    title = f"at step {result['step']}"
    print(_evaluation_table(result["evaluation"], title, result.get("intervals"), options.confidence))


def compare(options: argparse.Namespace) -> None:
    """`jaxft compare`"""
    # Its runs share compiled programs. XLA calls it an error that one was compiled for features that no processor has,
    # though it made them up.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxft.workflows.compare.compare import compare
    from jaxft.workflows.compare.report import comparison_text

    result = compare(
        options.recipe, options.overrides, options.run_dir, options.shard, options.jobs, quiet=options.quiet
    )
    if options.json:
        print(_json(result.as_json()))
    elif result.finding is None:
        print(f"{result.directory}: {result.done} of {result.trials} runs are done")
    else:
        print(comparison_text(result.finding, result.recipe), f"report: {result.directory}/report.html", sep="\n\n")


def predict(options: argparse.Namespace) -> None:
    """`jaxft predict`"""
    from jaxft.workflows.train.predict import predict

    predict(options.run, options.input, options.output, options.stream, options.step)


def import_weights(options: argparse.Namespace) -> None:
    """`jaxft import`"""
    from jaxft.workflows.weights.import_model import import_model

    result = import_model(options.source, options.output, options.adapter)
    heads = f"heads: {', '.join(result['heads']) or 'none'}"
    said = f"{result['output']}: {result['model_type']}, {result['parameters']:,} parameters, {heads}"
    print(_json(result) if options.json else said)


def export_weights(options: argparse.Namespace) -> None:
    """`jaxft export`"""
    from jaxft.workflows.weights.export import export_model

    result = export_model(options.run, options.output, options.head, options.dtype, options.step, options.adapter)
    said = f"{result['output']}: {result['class']}, {result['parameters']:,} parameters"
    if result["left_out"]:
        said += f"; without the head {', '.join(result['left_out'])} (choose one with --head)"
    print(_json(result) if options.json else said)


def average(options: argparse.Namespace) -> None:
    """`jaxft average`"""
    from jaxft.workflows.weights.average import average_models

    result = average_models(options.models, options.output, options.weights, options.share, options.start)
    said = f"{result['output']}: {result['parameters']:,} parameters, the mean of {len(result['weights'])} models"
    if result["as_tuned"]:
        said += f"; {', '.join(result['as_tuned'])} had no start and stays as tuned"
    print(_json(result) if options.json else said)


def verify(options: argparse.Namespace) -> None:
    """`jaxft verify`"""
    from jaxft.workflows.weights.verify import check_agreement, verify_model

    result = verify_model(options.model)
    if options.json:
        print(_json(result))
    else:
        rows = [(f"after block {i}", f"{difference:.3g}") for i, difference in enumerate(result["layers"], 1)]
        rows.append(("result", f"{result['max_difference']:.3g} (torch's largest is {result['largest']:.3g})"))
        if result["kl"] is not None:
            rows.append(("KL divergence", f"{result['kl']:.3g}"))
        equal = "byte-equal" if result["byte_equal"] else "NOT byte-equal"
        rows.append(("round trip", f"{result['tensors']} tensors, {equal}"))
        print(text_table((result["class"], "largest difference from torch"), rows))
    check_agreement(options.model, result)


def tokenizer_train(options: argparse.Namespace) -> None:
    """`jaxft tokenizer train`"""
    from jaxft.workflows.prepare.tokenizer_train import train_tokenizer

    given = {"vocab_size": options.vocab_size, "model_type": options.model_type, "sentinels": options.sentinels}
    # Flags that are not given need not be known to the kind of vocabulary.
    given |= {name: True for name in ("lowercase", "byte_fallback") if getattr(options, name)}
    result = train_tokenizer(options.input, options.output, options.column, **given)
    if options.json:
        print(_json(result))
    else:
        density = f"{result['characters_per_token']:.2f} characters each on its own text"
        print(f"{result['output']}: {result['vocab_size']} tokens, {density}")


def recipes_list(options: argparse.Namespace) -> None:
    """`jaxft recipes ls`"""
    from jaxft.recipe.library import names, summary_of

    rows = [(name, summary_of(name)) for name in names()]
    print(_json(dict(rows)) if options.json else text_table(("recipe", "what it does"), rows))


def recipes_show(options: argparse.Namespace) -> None:
    """`jaxft recipes show`"""
    from jaxft.recipe.library import path_of

    print(path_of(options.name).read_text(encoding="utf-8"), end="")


def recipes_copy(options: argparse.Namespace) -> None:
    """`jaxft recipes copy`"""
    from jaxft.recipe.library import path_of

    source = path_of(options.name)
    target = pathlib.Path(options.target or source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise RecipeError(f"{target} exists already; give another name: jaxft recipes copy {options.name} NAME.yaml")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise RecipeError(f"{target} cannot be written: {error.strerror}") from error
    print(target)


def doctor(options: argparse.Namespace) -> None:
    """`jaxft doctor`"""
    from jaxft.workflows.doctor import examine

    found = examine()
    print(_json(found) if options.json else text_table(("what", "found"), list(found.items())))


def _evaluation_table(
    evaluation: dict[str, dict[str, Any]],
    title: str,
    intervals: dict[str, dict[str, dict[str, float]]] | None = None,
    confidence: float | None = None,
) -> str:
    found = [
        (name, metric, value)
        for name, ms in evaluation.items()
        for metric, value in ms.items()
        if isinstance(value, float)
    ]
    rows: list[tuple[str | float, ...]] = list(found)
    columns: tuple[str, ...] = ("evaluation", f"metric {title}", "value")
    if intervals is not None:
        ends = [intervals[name].get(metric, {}) for name, metric, _ in found]
        rows = [(*row, own.get("low", ""), own.get("high", "")) for row, own in zip(rows, ends, strict=True)]
        columns = (*columns, f"low ({confidence:.0%})", "high")
    return text_table(columns, rows) if rows else "no evaluation"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
