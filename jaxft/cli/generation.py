"""`jaxft generate`: its options, what it reads and where it writes."""

from __future__ import annotations

import argparse
import dataclasses

from jaxft.cli.lines import check_words, given_texts, output_to, text_of
from jaxft.errors import DataError, RecipeError

# Options that are fields of `GenerationConfig`: type and help.
_OPTIONS: dict[str, tuple[type, str]] = {
    "max_new_tokens": (int, "most tokens of a text"),
    "min_new_tokens": (int, "fewest tokens before it may end"),
    "temperature": (float, "0 takes the likeliest token (the default), 1 draws as the model says"),
    "top_k": (int, "draw from so many of the likeliest tokens"),
    "top_p": (float, "draw from the likeliest tokens of this probability together"),
    "min_p": (float, "draw from tokens with this share of the likeliest one's probability"),
    "typical_p": (float, "draw from the most typical tokens of this probability together"),
    "repetition_penalty": (float, "makes tokens that were there less likely by this factor"),
    "presence_penalty": (float, "taken from the logits of tokens that were written"),
    "frequency_penalty": (float, "taken from them for each time"),
    "no_repeat_ngram": (int, "no sequence of so many tokens twice"),
    "beams": (int, "beam search with so many sequences"),
    "length_penalty": (float, "power of the length by which beam search divides"),
    "beam_groups": (int, "search in so many groups of beams that differ from each other"),
    "diversity_penalty": (float, "taken from what an earlier group wrote at the same place"),
    "contrastive_alpha": (float, "contrastive search over --top-k tokens with this weight"),
    "draft_tokens": (int, "tokens that --draft writes ahead"),
    "num_return_sequences": (int, "texts for each prompt"),
    "regex": (str, "regular expression that the whole text matches"),
    "json_schema": (str, "JSON schema that the text follows, or @FILE with one"),
    "prefix": (str, "text that every text begins with"),
    "seed": (int, "of what is drawn"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft generate`."""
    parser.add_argument("model", help="a directory in Hugging Face layout, an id on the hub, or a run")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", action="append", help="text to go on from, or to read; may be given several times")
    what.add_argument("--file", help=".jsonl with the column prompt, or text with a prompt in each line")
    what.add_argument(
        "--unprompted", type=int, metavar="N", help="draw N texts that begin with nothing, as data for replay"
    )
    parser.add_argument("--output", help="JSON lines to write (default: standard output)")
    parser.add_argument("--stream", action="store_true", help="print the text of one prompt as it is written")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="ends a text; may be given several times")
    parser.add_argument(
        "--logit-bias",
        action="append",
        metavar="ID:BIAS",
        help="added to the logit of a token, like 13:-100",
    )
    parser.add_argument("--stop-token", action="append", metavar="TOKEN", help="an entry of the vocabulary likewise")
    parser.add_argument(
        "--early-stopping", choices=("true", "false", "never"), help="when beam search ends (default: false)"
    )
    parser.add_argument("--draft", metavar="MODEL", help="a smaller model with the same vocabulary that writes ahead")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="texts at a time (default: %(default)s)")
    for name, (kind, about) in _OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=about)


def generate(options: argparse.Namespace) -> None:
    """`jaxft generate`"""
    from jaxft.workflows.inference.generate import (
        biased_token,
        make_config,
        open_text_generator,
        write_texts,
        write_unprompted,
    )

    given = {name: value for name in _OPTIONS if (value := getattr(options, name)) is not None}
    if options.early_stopping:
        given["early_stopping"] = {"true": True, "false": False}.get(options.early_stopping, "never")
    if (schema := given.get("json_schema", "")).startswith("@"):
        given["json_schema"] = text_of(schema[1:])
    if options.logit_bias:
        try:
            given["logit_bias"] = tuple(map(biased_token, options.logit_bias))
        except ValueError:
            raise RecipeError(f"--logit-bias: must be like 13:-100, found {', '.join(options.logit_bias)}") from None
    # What is wrong with the words is said before a model is loaded.
    config = make_config(given | {"stop": tuple(options.stop or ())})
    if options.batch_size < 1:
        raise RecipeError(f"--batch-size: must be at least 1, found {options.batch_size}")
    number = options.unprompted
    if number is not None and (number < 1 or options.stream):
        found = "cannot be streamed" if number >= 1 else f"must be at least 1, found {number}"
        raise RecipeError(f"--unprompted: {found}")
    check_words(options)
    prompts = [] if number else given_texts(options.prompt, options.file, "prompt")
    if not prompts and not number:
        raise DataError("there is no prompt; give --prompt, --file, or prompts in lines on standard input")
    text_generator = open_text_generator(
        options.model, options.dtype, batch_size=options.batch_size, draft=options.draft
    )
    config = dataclasses.replace(config, stop_token_ids=text_generator.token_ids(options.stop_token or ()))
    with output_to(options.output) as file:
        if number:
            write_unprompted(text_generator, number, config, file)
        else:
            write_texts(text_generator, prompts, config, file, file if options.stream else None)
