"""Where verbs that are given texts read them, and where they write what they say of them."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from jaxft.errors import DataError, RecipeError
from jaxft.parallel.processes import from_first, is_first, process_count

# Of each process its own, or no word.
_OWN_WORDS = ("coordinator", "processes", "index", "start_timeout", "verb")


def given_texts(given: Sequence[str] | None, path: str | None, column: str) -> list[str]:
    """Texts of options, of a file or of standard input; JSON lines have them in a column.

    Of several processes the first reads them for all.

    Raises:
      DataError: there are none, or they cannot be read.
    """
    return from_first(lambda: _given_texts(given, path, column))


def _given_texts(given: Sequence[str] | None, path: str | None, column: str) -> list[str]:
    if given is not None:
        return list(given)
    if path is None:
        return list(read_prompts(io.StringIO(_standard_input()), "standard input", None))
    return list(read_prompts(io.StringIO(text_of(path)), path, column if path.endswith(".jsonl") else None))


def read_prompts(file: Iterable[str], name: str, column: str | None) -> Iterator[str]:
    """Texts of a file: each line is one, or is a JSON object with a column for it where that is named.

    Raises:
      DataError: a line is no such object.
    """
    for number, line in enumerate(file, 1):
        if column is None:
            yield line.rstrip("\n")
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            raise DataError(
                f'{name}, line {number}: must be an object with a text "{column}", like {{"{column}": "Once"}}'
            )
        yield row[column]


def text_of(path: str) -> str:
    """A file's text, with lines as Unix ends them and without a byte order mark.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return _text(pathlib.Path(path).read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _standard_input() -> str:
    """All of standard input, read as a file is, whatever the locale says."""
    return _text(sys.stdin.buffer.read(), "standard input")


def _text(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not text in UTF-8: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_words(options: argparse.Namespace) -> None:
    """Whether all processes, where there are several, were started with the same words.

    Raises:
      RecipeError: they were not.
    """
    if process_count() > 1:
        from jaxft.workflows.runs.agreement import check_words_agree

        check_words_agree({name: value for name, value in vars(options).items() if name not in _OWN_WORDS})


@contextlib.contextmanager
def output_to(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there only when all of it is written; nothing but of the first process."""
    if path is None:
        yield sys.stdout
        return
    if not is_first():
        yield io.StringIO()
        return
    partial = pathlib.Path(f"{path}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}") from error
    partial.replace(path)
