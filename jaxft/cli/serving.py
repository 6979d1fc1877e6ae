"""`jaxft serve`: its options."""

from __future__ import annotations

import argparse
import os
import sys

# Options that are fields of `jaxft.serving.limits.Limits`: type and help.
_LIMITS: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "most tokens that a request may ask to have written, for each text"),
    "max_prompt_tokens": (int, "most tokens of a prompt or text"),
    "max_texts": (int, "most prompts, texts or answers of a request"),
    "max_body": (int, "most bytes of a request"),
    "queue": (int, "most texts that wait; more are turned away"),
    "time_limit": (float, "most seconds for a request, from its arrival"),
    "drain_seconds": (float, "most seconds for requests to end when the server is told to"),
    "connections_per_address": (int, "most open connections of one address; a proxy's clients are one"),
    "batch_size": (int, "most texts that are worked on at once"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft serve`."""
    parser.add_argument("model", help="a directory in Hugging Face layout, an id on the hub, or a run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default: %(default)s)")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token that clients must show; or the environment variable JAXFT_SERVE_TOKEN holds it. "
        "Needed where others than this machine can reach the address",
    )
    parser.add_argument("--name", help="of the model, for clients (default: that of its directory)")
    parser.add_argument("--chat-template", metavar="NAME", help="chatml, llama3, llama2, mistral, gemma or plain")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    for name, (kind, about) in _LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=about)


def serve(options: argparse.Namespace) -> None:
    """`jaxft serve`"""
    # Programs are kept on disk. XLA calls it an error that one was compiled for features that no processor has, though
    # it made them up.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxft.workflows.inference.serve import serve

    limits = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None}
    serve(
        options.model,
        host=options.host,
        port=options.port,
        token_file=options.token_file,
        name=options.name,
        chat_template=options.chat_template,
        dtype=options.dtype,
        limits=limits,
        ready=lambda line: print(line, file=sys.stderr, flush=True),
    )
