"""Question answering in the JSON of SQuAD, versions 1 and 2 (Rajpurkar et al., 2016 and 2018)."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources.compression import DamagedStream
from jaxft.data.sources.files import ReadableFile, open_content
from jaxft.data.sources.rows import Row, Scanned
from jaxft.data.sources.strict_json import Flaw, excerpt, find_flaw, parse_document
from jaxft.errors import DataError, RecipeError

_EXPECTED = 'expected the JSON of SQuAD: {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [...]}]}]}'
_KINDS = {str: "text", list: "an array", int: "a whole number", (str, int): "text"}


def squad_rows(file: ReadableFile, name: str) -> Iterator[Scanned]:
    """One row per question: ``{"id", "title", "context", "question", "answers": [{"text", "start"}, ...]}``.

    Every answer must stand in the context at its start, which counts characters. A question that is impossible, or of a
    test set, has no answers. The document is read as a whole.

    Raises:
      DataError: the file is empty, not JSON, or not of this form.
      RecipeError: it can't be read.
    """
    document = parse_document(_read(file, name), name)
    articles = document.get("data") if isinstance(document, dict) else None
    if not isinstance(articles, list):
        raise DataError(f"{name}: {_EXPECTED}", "not_an_object")
    if not articles:
        raise DataError(f"{name} is empty: it has no questions", "empty_file")
    for i, article in enumerate(articles):
        yield from _article_rows(article, f"{name}:data[{i}]")


def _read(file: ReadableFile, name: str) -> str:
    try:
        with open_content(file, name) as stream:
            content = stream.read()
    except DamagedStream as damage:
        raise DataError(f"{name}: {damage.problem}", damage.reason) from None
    except OSError as error:
        raise RecipeError(f"{name} can't be read: {error.strerror or error}") from error
    if not content.strip():
        raise DataError(f"{name} is empty", "empty_file")
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        place = start + error.start
        problem = f"not UTF-8: byte 0x{content[place]:02x} at byte offset {place}; save the file as UTF-8"
        raise DataError(f"{name}: {problem}", "not_utf8") from None


def _article_rows(article: Any, location: str) -> Iterator[Scanned]:
    try:
        paragraphs = _member(article, "paragraphs", list, location)
    except DataError as defect:
        yield defect
        return
    for i, paragraph in enumerate(paragraphs):
        where = f"{location}.paragraphs[{i}]"
        try:
            questions = _member(paragraph, "qas", list, where)
        except DataError as defect:
            yield defect
            continue
        for j, question in enumerate(questions):
            yield _row(article, paragraph, question, where, f"qas[{j}]")


def _row(article: Any, paragraph: Any, question: Any, where: str, place: str) -> Scanned:
    location = f"{where}.{place}"
    try:
        title = _content(article).get("title", "")
        context = _member(paragraph, "context", str, where)
        above = (part for part in (article, paragraph) if isinstance(part, Flaw))
        for part in (*above, title, context, question):
            if flaw := find_flaw(part):
                raise DataError(f"{location}: {flaw.problem}", flaw.reason)
        values = {
            "id": str(_member(question, "id", (str, int), location)),
            "title": title,
            "context": context,
            "question": _member(question, "question", str, location),
            "answers": _answers(question, context, location),
        }
    except DataError as defect:
        return defect
    return Row(values, location)


def _answers(question: dict[str, Any], context: str, location: str) -> list[dict[str, Any]]:
    if question.get("is_impossible") is True or "answers" not in question:
        return []
    answers = []
    for i, answer in enumerate(_member(question, "answers", list, location)):
        where = f"{location}.answers[{i}]"
        text, start = _member(answer, "text", str, where), _member(answer, "answer_start", int, where)
        if not text or start < 0 or not context.startswith(text, start):
            raise DataError(f"{where}: {_not_found(text, start, context)}", "answer_not_found")
        answers.append({"text": text, "start": start})
    return answers


def _not_found(text: str, start: int, context: str) -> str:
    if not text:
        return "the answer is empty; a question without an answer is marked by is_impossible"
    elsewhere = context.find(text)
    hint = "" if elsewhere < 0 else f" It stands at {elsewhere}: answer_start counts characters."
    there = context[start : start + len(text)] if start >= 0 else ""
    return f"the answer {excerpt(text)} is not in the context at {start}, where {excerpt(there)} stands.{hint}"


def _content(value: Any) -> Any:
    """A value, also one that has a flaw."""
    return value.value if isinstance(value, Flaw) else value


def _member(value: Any, key: str, kind: type | tuple[type, ...], location: str) -> Any:
    value = _content(value)
    if not isinstance(value, dict):
        raise DataError(f"{location}: expected an object with the key {key!r}; found {value!r:.40}", "not_an_object")
    if key not in value:
        raise DataError(f"{location}: there is no key {key!r}; the keys are: {', '.join(value)}", "missing_column")
    found = value[key]
    if not isinstance(_content(found), kind) or isinstance(found, bool):
        reason = "not_text" if kind is str else "wrong_type"
        raise DataError(f"{location}: {key!r} must be {_KINDS[kind]}; found {found!r:.40}", reason)
    return found
