"""The verbs of the command line, and the border where errors become messages."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from jaxft import __version__
from jaxft.cli import chat, generation, harness, launching, planning, reading, serving, verbs
from jaxft.cli.streams import leave_standard_output, open_standard_streams
from jaxft.errors import JaxftError, RecipeError
from jaxft.parallel.environment import found_place
from jaxft.parallel.processes import ProcessesConfig, is_first, joined, leave
from jaxft.reporting.reading import readings_shown

_EPILOG = """exit status: 0 done, 2 the recipe or the command is wrong, 3 the data is wrong, 4 a checkpoint is wrong,
5 training diverged, 1 anything else"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb and exits with its status."""
    open_standard_streams()
    sys.unraisablehook = _show_unraisable
    leave(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
      arguments: the words after `jaxft`; those of the process where None.

    Returns:
      The exit status.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if (number := next((i for i, word in enumerate(words, 1) if not _is_utf8(word)), None)) is not None:
        print(f"jaxft: word {number} of the command is not UTF-8: {words[number - 1]!a}", file=sys.stderr)
        return RecipeError.exit_status
    options = _parsed(words)
    _log_to_standard_error(logging.WARNING if getattr(options, "quiet", True) else logging.INFO)
    try:
        with _as_one_of_several(options), readings_shown(getattr(options, "quiet", False) or not is_first()):
            options.verb(options)
        sys.stdout.flush()
    except JaxftError as error:
        print(f"jaxft: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("jaxft: interrupted before there was anything to save", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has enough
        leave_standard_output()
        return 1
    except OSError as error:  # a full disk, a file system that is gone, no more files to open
        print(f"jaxft: {_told(error)}", file=sys.stderr)
        leave_standard_output()
        return 1
    return 0


def _show_unraisable(unraisable: Any) -> None:
    """Shows what nobody can catch, but for what tells nothing.

    Where one array of a checkpoint cannot be written, the threads that write the others find the event loop of all of
    them closed. Why, the checkpoint's own exception says.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _is_utf8(word: str) -> bool:
    """Whether a word of the command came as UTF-8; Python keeps other bytes as halves of surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _told(error: OSError) -> str:
    """What the system refused, in one line."""
    what = error.filename if error.filename is not None else "a file or a standard stream"
    return f"{what} cannot be read or written: {error.strerror or error}"


def _as_one_of_several(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Joins other processes, in verbs that know how to share their work.

    Raises:
      RecipeError: the verb is for one process alone.
    """
    if not hasattr(options, "coordinator"):
        return contextlib.nullcontext()
    if hasattr(options, "alone"):
        place = found_place(options.coordinator, options.processes, options.index)
        if place is not None and place.count > 1:
            raise RecipeError(
                f"{options.alone} answers from one process, found {place.count}; start it on one host alone. "
                "`jaxft generate` writes with several"
            )
        return contextlib.nullcontext()
    return joined(ProcessesConfig(options.coordinator, options.processes, options.index, options.start_timeout))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command; overrides may also stand after options, where argparse does not look for them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _log_to_standard_error(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("jaxft")
    logger.handlers = [handler]
    logger.propagate = False  # other libraries put handlers on the root, which would say everything twice
    logger.setLevel(level)
    # Orbax tells at length what it does, and of each thread what failed; its errors arrive as exceptions.
    for noisy in ("absl", "orbax", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


# What argparse hangs verbs on, whose type it keeps to itself.
Subparsers = Any
# From a verb's name, what it calls, what it does, and perhaps where it hangs, to its parser.
AddVerb = Callable[..., argparse.ArgumentParser]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxft", description="From raw text to a good Transformer, in JAX.", epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"jaxft {__version__}")
    subparsers = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(
        name: str, call: Callable[..., Any], about: str, parent: Subparsers = subparsers
    ) -> argparse.ArgumentParser:
        sub = parent.add_parser(name, help=about, description=about, allow_abbrev=False)
        sub.set_defaults(verb=call)
        return sub

    _add_training_verbs(verb)
    _add_compare(verb)
    _add_plan(verb)
    launching.add_options(verb("launch", launching.launch, "Run a recipe on a cloud, a cluster or a host, until done."))
    _add_data_verbs(verb, subparsers)
    _add_using_verbs(verb)
    _add_weight_verbs(verb)
    tokenizers = subparsers.add_parser("tokenizer", help="train a tokenizer").add_subparsers(
        required=True, metavar="VERB"
    )
    _add_tokenizer_training(verb("train", verbs.tokenizer_train, "Train a tokenizer.", tokenizers))
    recipes = subparsers.add_parser("recipes", help="the recipes that come with jaxft").add_subparsers(
        required=True, metavar="VERB"
    )
    _add_json(verb("ls", verbs.recipes_list, "List the recipes that come with jaxft.", recipes))
    verb("show", verbs.recipes_show, "Print a recipe.", recipes).add_argument("name")
    copy = verb("copy", verbs.recipes_copy, "Copy a recipe, to change it.", recipes)
    copy.add_argument("name")
    copy.add_argument("target", nargs="?", help="file to write; the recipe's own name here by default")
    _add_json(verb("doctor", verbs.doctor, "Show versions, devices and optional packages."))
    return parser


def _add_training_verbs(verb: AddVerb) -> None:
    quickstart = verb(
        "quickstart",
        verbs.quickstart,
        "Pretrain a small encoder on the documentation inside Python, fine-tune it both ways, compare.",
    )
    quickstart.add_argument("--run-dir", default="runs/quickstart", help="where to write (default: %(default)s)")
    quickstart.add_argument("--quiet", action="store_true", help="no progress on standard error")
    _add_json(quickstart)
    train = verb("train", verbs.train, "Train by a recipe, or continue a run of it.")
    _add_recipe(train)
    train.add_argument("--run-dir", help="directory of the run (default: runs/<name of the recipe>)")
    train.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its sizes, train nothing")
    train.add_argument("--quiet", action="store_true", help="no progress on standard error")
    _add_processes(train)
    _add_json(train)


def _add_compare(verb: AddVerb) -> None:
    compare = verb(
        "compare", verbs.compare, "Fine-tune in several ways by one recipe and tell what each gains and forgets."
    )
    _add_recipe(compare)
    compare.add_argument("--run-dir", help="where everything goes (default: runs/<name of the recipe>-compare)")
    compare.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine (default: %(default)s)")
    compare.add_argument(
        "--shard", type=_share, default=(0, 1), metavar="I/N", help="the share of the runs that this host makes"
    )
    compare.add_argument("--quiet", action="store_true", help="no progress on standard error")
    _add_json(compare)


def _add_plan(verb: AddVerb) -> None:
    plan = verb("plan", planning.plan, "Tell whether a recipe fits devices that are not here, and how fast it runs.")
    _add_recipe(plan)
    planning.add_options(plan)


def _add_data_verbs(verb: AddVerb, subparsers: Subparsers) -> None:
    prepare = verb(
        "prepare", verbs.prepare, "Tokenize all data of a recipe ahead of training; goes on where it stopped."
    )
    _add_recipe(prepare)
    prepare.add_argument("--workers", type=int, help="processes that tokenize (default: one for each core)")
    prepare.add_argument(
        "--shard", type=_share, default=(0, 1), metavar="I/N", help="the share of the work that this machine does"
    )
    prepare.add_argument("--quiet", action="store_true", help="no progress on standard error")
    _add_json(prepare)
    data = subparsers.add_parser("data", help="look at the data of a recipe").add_subparsers(
        required=True, metavar="VERB"
    )
    show = verb("show", verbs.data_show, "Print rows of each stream as the model sees them.", data)
    _add_recipe(show)
    show.add_argument("--rows", type=int, default=2, help="of each stream (default: %(default)s)")
    show.add_argument("--step", type=int, default=0, help="whose batch (default: the first)")
    _add_json(show)
    stats = verb("stats", verbs.data_stats, "Lengths, packing, shares, duplicates, scripts and bad rows.", data)
    _add_recipe(stats)
    stats.add_argument("--picture", metavar="PNG", help="draw histograms of the lengths")
    _add_json(stats)


def _share(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not like 0/4: a number below the number of parts, and that number"
        )
    return int(part), int(parts)


def _add_using_verbs(verb: AddVerb) -> None:
    evaluate = verb("evaluate", verbs.evaluate, "Run the evaluations of a trained run.")
    _add_run(evaluate)
    evaluate.add_argument("overrides", nargs="*", help="like 'evaluation.reviews.source={jsonl: test.jsonl}'")
    evaluate.add_argument(
        "--confidence", type=float, metavar="SHARE", help="print intervals that hold the truth so often, like 0.95"
    )
    evaluate.add_argument(
        "--resamples", type=int, default=1000, help="draws of the examples for them (default: %(default)s)"
    )
    _add_processes(evaluate)
    _add_json(evaluate)
    predict = verb("predict", verbs.predict, "Classify the rows of a JSON lines file.")
    _add_run(predict)
    predict.add_argument("input", help="JSON lines with the text columns of the recipe")
    predict.add_argument("--output", help="JSON lines to write (default: standard output)")
    predict.add_argument("--stream", help="which classifier, where the run has several")
    _add_processes(predict)
    writing = verb("generate", generation.generate, "Write on from prompts, as JSON lines.")
    generation.add_options(writing)
    _add_processes(writing)
    _add_alone(chat, verb("chat", chat.chat, "Talk to a model."))
    _add_alone(serving, verb("serve", serving.serve, "Answer requests over HTTP, in the form of OpenAI's, and a page."))
    for name, call, add, about in (
        ("classify", reading.classify, reading.add_classify, "Labels of texts, by a classifier."),
        ("embed", reading.embed, reading.add_embed, "Vectors of texts."),
        ("fill-mask", reading.fill_mask, reading.add_fill_mask, "What stands behind the masks of texts."),
        ("score", reading.score, reading.add_score, "How likely a model finds given continuations."),
    ):
        read = verb(name, call, about)
        add(read)
        _add_processes(read)
    harness.add_options(verb("harness", harness.harness, "Score a model by tasks of lm-evaluation-harness."))


def _add_alone(module: ModuleType, parser: argparse.ArgumentParser) -> None:
    """A verb of one process, which says so where it is one of several."""
    module.add_options(parser)
    for name, kind in (("coordinator", str), ("processes", int), ("index", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.set_defaults(alone=parser.prog)


def _add_weight_verbs(verb: AddVerb) -> None:
    load = verb("import", verbs.import_weights, "Read a model in Hugging Face layout into a checkpoint.")
    load.add_argument("source", help="a directory with config.json and safetensors, or an id on the hub")
    load.add_argument("output", help="directory to write")
    load.add_argument("--adapter", metavar="DIR", help="a low-rank update in PEFT's format to merge into it")
    _add_json(load)
    export = verb("export", verbs.export_weights, "Write a run or an imported model in Hugging Face layout.")
    _add_run(export)
    export.add_argument("output", help="directory to write")
    export.add_argument(
        "--adapter", action="store_true", help="write the low-rank update of a run alone, in PEFT's format"
    )
    export.add_argument("--head", help="which head (default: that of the first stream; `none`: the trunk alone)")
    export.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of all tensors")
    _add_json(export)
    average = verb(
        "average", verbs.average, "Average the weights of runs from one start (soups), or go back towards it."
    )
    average.add_argument("output", help="directory to write")
    average.add_argument("models", nargs="+", metavar="RUN[:STEP]", help="runs, imported models, or Hugging Face's")
    average.add_argument(
        "--weights", type=float, nargs="+", metavar="WEIGHT", help="one for each model (default: all alike)"
    )
    average.add_argument("--share", type=float, help="of what was tuned, the rest being the start (WiSE-FT), like 0.5")
    average.add_argument("--start", metavar="DIR", help="where that lies (default: what the first run began with)")
    _add_json(average)
    check = verb("verify", verbs.verify, "Compare a model in Hugging Face layout with torch.")
    check.add_argument("model", help="a directory with config.json and safetensors, or an id on the hub")
    _add_json(check)


def _add_tokenizer_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="+", help="files: .jsonl, .csv, .tsv or plain text")
    parser.add_argument("--output", required=True, help="directory to write")
    parser.add_argument("--column", default="text", help="column with the text (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=8000, help="number of tokens (default: %(default)s)")
    parser.add_argument("--model-type", choices=("unigram", "bpe", "wordpiece", "byte_bpe"), default="unigram")
    parser.add_argument("--lowercase", action="store_true", help="fold case")
    parser.add_argument("--byte-fallback", action="store_true", help="write unknown characters as bytes")
    parser.add_argument("--sentinels", type=int, default=0, help="tokens <extra_id_0>, ... for span corruption")
    _add_json(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, or a name out of `jaxft recipes ls`")
    parser.add_argument("overrides", nargs="*", help="like training.seed=1")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="directory of a run")
    parser.add_argument(
        "--step", type=int, help="which checkpoint (default: the best where the recipe names one, else the last)"
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes", "Cloud TPU, GKE, SLURM and MPI say by themselves what others must be told:"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a port there")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--index", type=int, metavar="I", help="which this is, from 0")
    group.add_argument(
        "--start-timeout", type=float, default=300, metavar="SECONDS", help="for all to come (default: %(default)s)"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
