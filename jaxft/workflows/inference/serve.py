"""A model behind HTTP."""

from __future__ import annotations

import os
import pathlib
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxft.data.chat import ChatFormat
from jaxft.errors import InvalidField, JaxftError, RecipeError
from jaxft.generation.generator import Generator
from jaxft.generation.reader import Reader
from jaxft.generation.talking import form_for_chat
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel
from jaxft.serving.warming import warm_up
from jaxft.workflows.inference.read_texts import reader_of
from jaxft.workflows.runs.compilation_cache import keep_compiled
from jaxft.workflows.weights.location import locate
from jaxft.workflows.weights.opened_model import open_model

TOKEN_VARIABLE = "JAXFT_SERVE_TOKEN"
_SHORTEST_TOKEN = 16

Made = TypeVar("Made")


def serve(
    source: str | pathlib.Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | None = None,
    name: str | None = None,
    chat_template: str | None = None,
    dtype: str = "float32",
    limits: Mapping[str, Any] | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Answers requests until it is interrupted.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, or a run.
      host: address to listen on.
      port: likewise; 0 takes any that is free.
      token_file: a file with the token that clients must show; the environment variable JAXFT_SERVE_TOKEN holds it
        otherwise. On a loopback address none is needed.
      name: of the model, for clients; that of its directory where None.
      chat_template: how it is talked to; as its files say where None.
      dtype: `float32` or `bfloat16`.
      limits: fields of `jaxft.serving.limits.Limits`.
      ready: is told, in a line for people, where the model answers and what it can do, once it does.

    Raises:
      RecipeError: an impossible limit, an address that can't be listened on, or one that needs a token.
      CheckpointError: the model can't be loaded.
    """
    try:
        from jaxft.serving.guard import is_loopback
        from jaxft.serving.server import Server
    except ImportError as error:
        raise RecipeError(f"serving needs {error.name}; install it with: pip install 'jaxft[serving]'") from None
    bounds = make_limits(limits or {})
    token = read_token(token_file)
    if token is None and not is_loopback(host):
        raise RecipeError(
            f"--host {host}: others can reach this address, so clients must show a token; write one of at least "
            f"{_SHORTEST_TOKEN} characters to a file and name it with --token-file, or put it into {TOKEN_VARIABLE}"
        )
    keep_compiled()
    listening = _listen(host, port)
    with listening:
        model = open_served(source, name, chat_template, dtype, bounds)
        warmed = warm_up(model, bounds)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        if ready is not None:
            ready(f"{model.name} answers at {where} ({', '.join(model.abilities)}; {warmed}); Ctrl-C ends")
        Server(model, bounds, token, host).run(sockets=[listening])


def open_served(
    source: str | pathlib.Path, name: str | None, chat_template: str | None, dtype: str, limits: Limits
) -> ServedModel:
    """A model with all that it can do.

    Raises:
      CheckpointError: it can't be loaded.
      RecipeError: it can do nothing that is served.
    """
    mesh, location = make_mesh(MeshConfig()), locate(source)
    opened = open_model(location, dtype, mesh)
    loaded = opened.loaded
    reasons: dict[str, str] = {}

    def attempt(make: Callable[[], Made], *abilities: str) -> Made | None:
        try:
            return make()
        except JaxftError as error:
            reasons.update(dict.fromkeys(abilities, str(error)))
            return None

    def generator() -> Generator:
        smallest = min(4, 1 << (limits.batch_size.bit_length() - 1))
        return Generator(
            loaded.model, opened.special_tokens, loaded.tokenizer, mesh, limits.batch_size, smallest_batch=smallest
        )

    def form() -> ChatFormat:
        if loaded.config.family == "encoder_decoder":
            raise RecipeError("an encoder-decoder reads one source and is not talked to")
        return form_for_chat(chat_template, loaded.tokenizer)

    def reader() -> Reader:
        return reader_of(opened, mesh, limits.batch_size)

    writes = attempt(generator, "completions", "chat")
    talks = None if writes is None else attempt(form, "chat")
    if chat_template is not None and talks is None:
        raise RecipeError(f"--chat-template {chat_template}: {reasons['chat']}")
    reads = attempt(reader, "embeddings", "classify", "fill-mask")
    model = ServedModel(name or location.name, writes, loaded.params, talks, reads, reasons)
    if not model.abilities:
        raise RecipeError(f"{source} can do nothing that is served: {'; '.join(dict.fromkeys(reasons.values()))}")
    return model


def make_limits(given: Mapping[str, Any]) -> Limits:
    """Limits by name; raises RecipeError for an impossible one."""
    try:
        return Limits(**given)
    except InvalidField as error:
        raise RecipeError(f"--{error.field.replace('_', '-')}: {error.problem}") from None


def read_token(path: str | None) -> str | None:
    """The token of a file, or of the environment; None where neither has one.

    Raises:
      RecipeError: it can't be read, or is no good token.
    """
    where, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if path is not None:
        where = f"--token-file {path}"
        try:
            token = pathlib.Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise RecipeError(f"{where}: cannot be read: {reason}") from error
    if token is None:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise RecipeError(
            f"{where}: a token has at least {_SHORTEST_TOKEN} printable ASCII characters and no spaces, such as what "
            "`openssl rand -hex 24` writes"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      RecipeError: it can't.
    """
    if not 0 <= port < 65536:
        raise RecipeError(f"--port: must be from 0 to 65535, found {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise RecipeError(f"{host}, port {port} can't be listened on: {error.strerror or error}") from error
