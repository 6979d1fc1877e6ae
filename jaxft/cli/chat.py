"""`jaxft chat`: a conversation in a terminal, or line by line from standard input."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from jaxft.errors import DataError, JaxftError, RecipeError

if TYPE_CHECKING:
    from jaxft.workflows.inference.chat import ChatSession

_HELP = """\
/system TEXT      what the model is told before everything (without TEXT: nothing)
/set NAME VALUE   an option of writing, such as /set temperature 0.7 (without them: all that are set)
/undo             take the last question and its answer back
/retry            have the last question answered anew
/reset            begin a new conversation
/save FILE        write the conversation as JSON
/history          print the conversation
/exit             end (so does the end of the input)
A line that ends with \\ goes on in the next; // at its beginning stands for a / of yours.
Ctrl-C stops an answer, what was written of it stays."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The words of `jaxft chat`."""
    parser.add_argument("model", help="a directory in Hugging Face layout, an id on the hub, or a run")
    parser.add_argument("--system", help="what the model is told before everything")
    parser.add_argument(
        "--chat-template", metavar="NAME", help="chatml, llama3, llama2, mistral, gemma or plain (default: the model's)"
    )
    parser.add_argument("--max-new-tokens", type=int, help="most tokens of an answer (default: 512)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token (default: 0.7)")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens of this probability together")
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest tokens")
    parser.add_argument("--repetition-penalty", type=float, help="makes tokens that were there less likely")
    parser.add_argument("--seed", type=int, help="of what is drawn (default: 0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")


def chat(options: argparse.Namespace) -> None:
    """`jaxft chat`"""
    from jaxft.workflows.inference.chat import open_chat

    names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    session = open_chat(options.model, options.system, options.chat_template, options.dtype, given)
    _Terminal(session, sys.stdin.isatty()).run()


class _Left(Exception):
    """The user has enough."""


class _Twice(KeyboardInterrupt):
    """A second Ctrl-C within one answer."""


class _Terminal:
    """Reads lines, runs commands, prints answers.

    Where nobody is at the terminal a mistake ends it, as its status tells a script.
    """

    def __init__(self, session: ChatSession, is_person: bool):
        self._session, self._is_person = session, is_person
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda rest: self._say(_HELP),
            "system": self._system,
            "set": self._set,
            "undo": self._undo,
            "retry": self._retry,
            "reset": self._reset,
            "save": self._save,
            "history": self._history,
            "exit": self._exit,
            "quit": self._exit,
        }

    def run(self) -> None:
        """Until the input ends or the user leaves."""
        if self._is_person:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (gives input() its editing and history)
        greeting = "/help lists commands, /exit ends"
        while True:
            try:
                if self._is_person and greeting:
                    self._say(greeting)
                greeting = ""
                self._converse()
                return
            except KeyboardInterrupt as interrupt:
                # At any moment but while an answer is written it drops what a person has typed so far.
                if isinstance(interrupt, _Twice) or not self._is_person:
                    raise
                greeting = "\n/exit or the end of the input (Ctrl-D) ends"

    def _converse(self) -> None:
        """Takes lines until there are no more."""
        try:
            for line in self._lines():
                try:
                    self._take(line)
                except JaxftError as error:
                    if not self._is_person:
                        raise
                    self._say(str(error))
        except _Left:
            return

    def _lines(self) -> Iterator[str]:
        """What is said, with lines that go on joined."""
        begun: list[str] = []
        while True:
            try:
                line = input(("... " if begun else "> ") if self._is_person else "").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise DataError(f"standard input is not text in UTF-8: {error}") from error
            except EOFError:
                if begun:
                    yield "\n".join(begun)
                return
            if line.endswith("\\"):
                begun.append(line[:-1])
                continue
            said, begun = "\n".join([*begun, line]), []
            if said.strip():
                yield said

    def _take(self, line: str) -> None:
        if line.startswith("//"):
            line = line[1:]
        elif line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            command = self._commands.get(name)
            if command is None:
                raise RecipeError(f"there is no command /{name}; /help lists them, // begins a text with a /")
            command(rest.strip())
            return
        self._answer(self._session.ask(line))

    def _answer(self, pieces: Iterator[str]) -> None:
        """Prints an answer as it comes; Ctrl-C stops it, twice stops the program."""
        with _stopping(self._session):
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        print(flush=True)
        if note := self._session.note:
            self._say(note)

    def _say(self, text: str) -> None:
        """What is no answer goes where answers don't."""
        print(text, file=sys.stderr, flush=True)

    def _system(self, rest: str) -> None:
        self._session.system = rest or None
        self._say("the conversation begins with this from now on" if rest else "no system message from now on")

    def _set(self, rest: str) -> None:
        if rest:
            name, _, value = rest.partition(" ")
            self._session.set_option(name.replace("-", "_"), value.strip())
        self._say("\n".join(f"{name} {value}" for name, value in self._session.options.items()))

    def _undo(self, rest: str) -> None:
        self._say(f"taken back: {self._session.undo()}")

    def _retry(self, rest: str) -> None:
        self._answer(self._session.retry())

    def _reset(self, rest: str) -> None:
        self._session.reset()
        self._say("a new conversation begins")

    def _save(self, rest: str) -> None:
        if not rest:
            raise RecipeError("/save needs the name of a file")
        try:
            pathlib.Path(rest).write_text(self._session.as_json(), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{rest} cannot be written: {error.strerror}") from error
        self._say(f"written to {rest}")

    def _history(self, rest: str) -> None:
        self._say("\n".join(f"{message.role}: {message.content}" for message in self._session.messages()))

    def _exit(self, rest: str) -> None:
        raise _Left


@contextlib.contextmanager
def _stopping(session: ChatSession) -> Iterator[None]:
    """While an answer is written, the first Ctrl-C stops it and the second the program."""
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, stop_all)
        session.stop()

    def stop_all(number: int, frame: FrameType | None) -> None:
        raise _Twice

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
