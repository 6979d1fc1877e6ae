"""`jaxft classify`, `embed`, `fill-mask` and `score`: what a model says of texts, as JSON lines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from jaxft.cli.lines import check_words, given_texts, output_to, text_of
from jaxft.errors import DataError, RecipeError
from jaxft.parallel.processes import from_first

_MODEL = "a directory in Hugging Face layout, an id on the hub, or a run"


def add_classify(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft classify`."""
    _add_texts(parser)
    parser.add_argument("--pair", action="append", help="second text of each --text, for models that read pairs")


def add_embed(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft embed`."""
    _add_texts(parser)


def add_fill_mask(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft fill-mask`."""
    _add_texts(parser)
    parser.add_argument("--top", type=int, default=5, help="candidates for each mask (default: %(default)s)")


def add_score(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft score`."""
    parser.add_argument("model", help=_MODEL)
    parser.add_argument("--prompt", default="", help="text before the continuations (default: none)")
    parser.add_argument("--continuation", action="append", help="text to be scored; may be given several times")
    parser.add_argument("--file", help=".jsonl with the columns prompt and continuation")
    _add_how(parser)


def classify(options: argparse.Namespace) -> None:
    """`jaxft classify`"""
    from jaxft.workflows.inference.read_texts import open_reader

    if options.pair is not None and len(options.pair) != len(options.text or ()):
        raise RecipeError(f"--pair: give one for each --text, found {len(options.pair)}")
    texts = _texts(options)
    read = list(zip(texts, options.pair, strict=True)) if options.pair else texts
    found = open_reader(options.model, options.dtype, batch_size=options.batch_size).classify(read, options.truncate)
    rows = []
    for number, one in enumerate(found):
        pair = {"pair": options.pair[number]} if options.pair else {}
        label = {} if one.label is None else {"label": one.label}
        rows.append({"text": texts[number], **pair, **label, "scores": one.scores})
    _write(rows, options.output)


def embed(options: argparse.Namespace) -> None:
    """`jaxft embed`"""
    from jaxft.workflows.inference.read_texts import open_reader

    texts = _texts(options)
    found = open_reader(options.model, options.dtype, batch_size=options.batch_size).embed(texts, options.truncate)
    rows = [{"text": text, "vector": one.vector.tolist()} for text, one in zip(texts, found, strict=True)]
    _write(rows, options.output)


def fill_mask(options: argparse.Namespace) -> None:
    """`jaxft fill-mask`"""
    from jaxft.workflows.inference.read_texts import open_reader

    texts = _texts(options)
    reader = open_reader(options.model, options.dtype, batch_size=options.batch_size)
    rows = []
    for text, one in zip(texts, reader.fill(texts, options.top, options.truncate), strict=True):
        masks = [
            [{"token": found.token, "text": found.text, "probability": found.probability} for found in candidates]
            for candidates in one.masks
        ]
        rows.append({"text": text, "filled": one.text, "masks": masks})
    _write(rows, options.output)


def score(options: argparse.Namespace) -> None:
    """`jaxft score`"""
    from jaxft.workflows.inference.generate import open_text_generator

    check_words(options)
    pairs = from_first(lambda: _pairs(options))
    text_generator = open_text_generator(options.model, options.dtype, batch_size=options.batch_size)
    found = text_generator.score([prompt for prompt, _ in pairs], [continuation for _, continuation in pairs])
    rows = [
        {
            "prompt": prompt,
            "continuation": continuation,
            "log_probability": one.log_probability,
            "tokens": len(one.log_probabilities),
            "perplexity": one.perplexity,
            "is_greedy": one.is_greedy,
        }
        for (prompt, continuation), one in zip(pairs, found, strict=True)
    ]
    _write(rows, options.output)


def _pairs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Prompts and continuations."""
    if (options.continuation is None) == (options.file is None):
        raise RecipeError("give either --continuation or --file")
    if options.continuation is not None:
        return [(options.prompt, continuation) for continuation in options.continuation]
    pairs = []
    # Not `splitlines`, which also ends a line at characters that JSON may hold.
    for number, line in enumerate(text_of(options.file).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{options.file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        names = ("prompt", "continuation")
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            raise DataError(f'{where}: must be an object with the texts "prompt" and "continuation"')
        pairs.append((row["prompt"], row["continuation"]))
    return pairs


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_MODEL)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--text", action="append", help="may be given several times")
    what.add_argument("--file", help=".jsonl with the column text, or text in lines (default: standard input)")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are longer than the model reads")
    _add_how(parser)


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", help="JSON lines to write (default: standard output)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="texts at a time (default: %(default)s)")


def _texts(options: argparse.Namespace) -> list[str]:
    if options.batch_size < 1:
        raise RecipeError(f"--batch-size: must be at least 1, found {options.batch_size}")
    check_words(options)
    texts = given_texts(options.text, options.file, "text")
    if not texts:
        raise DataError("there is no text; give --text, --file, or texts in lines on standard input")
    return texts


def _write(rows: Sequence[dict[str, Any]], path: str | None) -> None:
    with output_to(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
