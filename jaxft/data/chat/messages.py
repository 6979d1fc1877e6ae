"""Conversations in a column of a source: a list of messages, each with a role and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxft.data.sources import Row, required_column, text_column
from jaxft.errors import DataError

Role = Literal["system", "user", "assistant"]
# Unicode promises never to assign these, so they mark where content stands in what a template renders.
OPEN, CLOSE = "\ufdd0", "\ufdd1"


@dataclass(frozen=True)
class Message:
    """What one side says in one turn.

    Attributes:
      role: who says it.
      content: what is said, not only whitespace.
    """

    role: Role
    content: str


def read_messages(row: Row, column: str) -> tuple[Message, ...]:
    """The conversation of a row, which an assistant's answer ends.

    Each message is a mapping with `role` and `content`; other keys play no part. After an optional system message, user
    and assistant take turns, the user first.

    Raises:
      DataError: there is no such column (``missing_column``), its value isn't a list of such mappings
        (``not_messages``), a role is unknown (``unknown_role``) or out of order (``role_order``), a content isn't text
        (``not_text``, ``nul``, ``reserved_character``) or is empty (``empty_text``), or no message is the assistant's
        (``no_assistant``).
    """
    messages = checked_messages(required_column(row, column), f"{row.location}: column {column!r}")
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise DataError(f"{row.location}: column {column!r}: the assistant says nothing", "no_assistant")
    if roles[-1] != "assistant":
        raise DataError(f"{row.location}: column {column!r}: must end with the assistant's answer", "role_order")
    return messages


def checked_messages(value: Any, where: str) -> tuple[Message, ...]:
    """The messages of a list of mappings, whose roles are in order; the last may be the user's.

    Args:
      value: as it was read.
      where: where it stands, for messages.

    Raises:
      DataError: as `read_messages`.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{where}: must be a list of messages with role and content", "not_messages")
    messages = tuple(_message(one, f"{where}, message {number}") for number, one in enumerate(value, 1))
    first = int(messages[0].role == "system")
    for number, message in enumerate(messages[first:]):
        wanted = ("user", "assistant")[number % 2]
        if message.role != wanted:
            problem = f"must be the {wanted}'s, found {message.role}'s; user and assistant take turns, the user first"
            raise DataError(f"{where}, message {first + number + 1}: {problem}", "role_order")
    if first == len(messages):
        raise DataError(f"{where}: holds nothing but a system message", "no_assistant")
    return messages


def texts_of(row: Row, column: str) -> tuple[str, ...]:
    """What a column says: its text, its words as one text, or the text of each message of its conversation.

    Raises:
      DataError: it holds none of them; see `jaxft.data.sources.text_column` and `checked_messages`.
    """
    value = required_column(row, column)
    if not isinstance(value, list):
        return (text_column(row, column),)
    if value and all(isinstance(word, str) for word in value):
        return (" ".join(value),)
    return tuple(message.content for message in checked_messages(value, f"{row.location}: column {column!r}"))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        found = ", ".join(map(repr, value)) if isinstance(value, Mapping) else type(value).__name__
        raise DataError(f"{where}: must be a mapping with role and content, found {found or 'nothing'}", "not_messages")
    role, content = value["role"], value["content"]
    if role not in get_args(Role):
        raise DataError(f"{where}: role must be one of {', '.join(get_args(Role))}; found {role!r}", "unknown_role")
    if not isinstance(content, str):
        raise DataError(f"{where}: content must be text, found {type(content).__name__}", "not_text")
    if not content.strip():
        raise DataError(f"{where}: empty content", "empty_text")
    if "\0" in content:
        raise DataError(f"{where}: content holds a NUL character, which is not text", "nul")
    if OPEN in content or CLOSE in content:
        problem = "content holds U+FDD0 or U+FDD1, which are no characters"
        raise DataError(f"{where}: {problem}", "reserved_character")
    return Message(role, content)
