"""Texts that have been written, whole or piece by piece, in the form of OpenAI's answers."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from jaxft.generation.texts import TextDelta
from jaxft.serving.logprobs import NO_TOKENS, Logged, TokenWords, logged
from jaxft.serving.parsing import Wanted

_ENDS = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}


@dataclasses.dataclass
class _Choice:
    """A text that grows."""

    text: str = ""
    written: int = 0
    logs: Logged = NO_TOKENS
    finished_by: str | None = None


@dataclasses.dataclass(frozen=True)
class Echo:
    """A prompt that stands before what is written.

    Attributes:
      text: of it.
      logs: its tokens.
    """

    text: str
    logs: Logged


class Answer:
    """What one request has had written.

    Args:
      model: its name.
      is_chat: whether it answers a conversation.
      wanted: what was asked for.
      prompt_lengths: tokens of each prompt.
      words: of the model's tokens, or None.
      echoes: of each prompt, where they stand before what is written.
    """

    def __init__(
        self,
        model: str,
        is_chat: bool,
        wanted: Wanted,
        prompt_lengths: Sequence[int],
        words: TokenWords | None,
        echoes: Sequence[Echo] = (),
    ):
        self._model, self._is_chat, self._wanted, self._words = model, is_chat, wanted, words
        self._copies = wanted.config.num_return_sequences
        self._prompt_tokens = sum(prompt_lengths)
        self._choices = [_Choice() for _ in range(len(prompt_lengths) * self._copies)]
        for number, choice in enumerate(self._choices if echoes else ()):
            echo = echoes[number // self._copies]
            choice.text, choice.logs = echo.text, echo.logs
            choice.finished_by = None if wanted.writes else "length"
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    @property
    def written_tokens(self) -> int:
        """Tokens of all texts so far."""
        return sum(choice.written for choice in self._choices)

    @property
    def is_complete(self) -> bool:
        """Whether every text has ended by itself."""
        return all(choice.finished_by for choice in self._choices)

    def take(self, piece: TextDelta) -> int:
        """Adds a piece, and returns the number of its text."""
        number = piece.prompt * self._copies + piece.copy
        choice = self._choices[number]
        choice.text += piece.text
        choice.written += len(piece.token_ids)
        choice.logs = choice.logs.then(logged(piece.token_ids, piece.log_probabilities, piece.likeliest))
        choice.finished_by = piece.finished_by
        return number

    def whole(self) -> dict[str, Any]:
        """All of it."""
        choices = []
        for number, one in enumerate(self._choices):
            content = {"message": {"role": "assistant", "content": one.text}} if self._is_chat else {"text": one.text}
            logs = self._logs(one.logs)
            reason = _finish_reason(one.finished_by)
            choices.append({"index": number, **content, "logprobs": logs, "finish_reason": reason})
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self._usage(), "seed": self._wanted.config.seed}

    def first_events(self) -> list[bytes]:
        """What a stream begins with."""
        if not self._is_chat:
            begun = [one for one in enumerate(self._choices) if one[1].text]
            return [self._event(i, {"text": one.text}, self._logs(one.logs), one.finished_by) for i, one in begun]
        delta = {"role": "assistant", "content": ""}
        return [self._event(number, {"delta": delta}, None, None) for number in range(len(self._choices))]

    def event(self, piece: TextDelta) -> bytes:
        """A piece as an event of a stream."""
        before = self._choices[piece.prompt * self._copies + piece.copy].logs
        number = self.take(piece)
        content = {"delta": {"content": piece.text} if piece.text else {}} if self._is_chat else {"text": piece.text}
        logs = self._logs(logged(piece.token_ids, piece.log_probabilities, piece.likeliest), before)
        return self._event(number, content, logs, piece.finished_by)

    def last_events(self) -> list[bytes]:
        """What a stream ends with."""
        last = [b"data: [DONE]\n\n"]
        if self._wanted.tells_usage:
            kind = "chat.completion.chunk" if self._is_chat else "text_completion"
            last.insert(0, as_event({**self._head(kind), "choices": [], "usage": self._usage()}))
        return last

    def _event(self, number: int, content: dict[str, Any], logs: Any, finished_by: str | None) -> bytes:
        choice = {"index": number, **content, "logprobs": logs, "finish_reason": _finish_reason(finished_by)}
        return as_event(
            {**self._head("chat.completion.chunk" if self._is_chat else "text_completion"), "choices": [choice]}
        )

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self) -> dict[str, int]:
        written = self.written_tokens
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }

    def _logs(self, found: Logged, before: Logged = NO_TOKENS) -> dict[str, Any] | None:
        """What is told of tokens, of which others came before."""
        words = self._words
        if not self._wanted.tells_logs or words is None:
            return None
        if self._is_chat:
            return words.of_chat(found, self._wanted.likeliest)
        written = b"".join(map(words.bytes_of, before.token_ids))
        return words.of_completion(found, self._wanted.likeliest, written)


def _finish_reason(finished_by: str | None) -> str | None:
    """In OpenAI's words; None of a text that is not at its end."""
    return None if finished_by is None else _ENDS[finished_by]


def as_event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
