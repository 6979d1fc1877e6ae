"""Talking to a model: the conversation so far, and its next answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxft.data.chat import ChatFormat, Message
from jaxft.data.chat.messages import CLOSE, OPEN
from jaxft.errors import DataError, RecipeError
from jaxft.generation.config import GenerationConfig
from jaxft.generation.generator import PromptOptions
from jaxft.generation.prompts import context_of
from jaxft.generation.talking import chat_prompt, ends_of_answers, form_for_chat
from jaxft.workflows.inference.generate import TextGenerator, biased_token, make_config, open_text_generator
from jaxft.workflows.weights.opened_model import ModelSource

_DEFAULTS = {"max_new_tokens": 512, "temperature": 0.7}
_NO_TEXT = {ord(character): None for character in ("\0", OPEN, CLOSE)}


def open_chat(
    source: ModelSource | TextGenerator,
    system: str | None = None,
    template: str | None = None,
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> ChatSession:
    """A conversation with a model.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, a run, or what `open_text_generator` gave.
      system: what the model is told before everything.
      template: how messages are written; as the model's own files have it where None.
      dtype: `float32` or `bfloat16`.
      options: fields of `GenerationConfig`.

    Raises:
      CheckpointError: nothing there can be loaded.
      RecipeError: the model can't be talked to, or an option is impossible.
    """
    make_config(_DEFAULTS | dict(options or {}))
    text_generator = source if isinstance(source, TextGenerator) else open_text_generator(source, dtype)
    if text_generator.generator.decoder.has_encoder:
        raise RecipeError("an encoder-decoder reads one source and is not talked to; `jaxft generate` has it write")
    return ChatSession(
        text_generator, form_for_chat(template, text_generator.generator.tokenizer), system, options or {}
    )


class ChatSession:
    """A conversation that goes on.

    Attributes:
      system: what the model is told before everything, or None.
      note: what is to be said of the last answer, such as that it was cut off; or None.
    """

    def __init__(self, text_generator: TextGenerator, form: ChatFormat, system: str | None, options: Mapping[str, Any]):
        self._text_generator, self._form = text_generator, form
        self.system = system
        self.note: str | None = None
        self._turns: list[tuple[str, str]] = []
        self._options = _DEFAULTS | dict(options)
        self._answers = 0
        self._is_stopped = False

    @property
    def options(self) -> dict[str, Any]:
        """Those of writing that differ from what they are otherwise."""
        return dict(self._options)

    def set_option(self, name: str, value: str) -> None:
        """Changes an option of writing; without a value it is as it was.

        Raises:
          RecipeError: there is no such option, or it can't have this value.
        """
        known = {field.name: field.default for field in dataclasses.fields(GenerationConfig)}
        if name not in known:
            raise RecipeError(f"there is no option {name!r}; there are {', '.join(known)}")
        options = {key: kept for key, kept in self._options.items() if key != name}
        if value:
            options[name] = _as_kind(name, value, known[name])
        make_config(_DEFAULTS | options)
        self._options = _DEFAULTS | options

    def messages(self) -> list[Message]:
        """The conversation."""
        messages = [] if self.system is None else [Message("system", self.system)]
        for question, answer in self._turns:
            messages += [Message("user", question), Message("assistant", answer)]
        return messages

    def as_json(self) -> str:
        """The conversation as `{"messages": [{"role": ..., "content": ...}]}`, as recipes read it in JSON lines."""
        return json.dumps({"messages": [dataclasses.asdict(one) for one in self.messages()]}, ensure_ascii=False) + "\n"

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece, which becomes part of the conversation, as far as it came.

        Raises:
          DataError: the conversation is longer than the model's context, or the question is empty.
        """
        prompt = self._prompt(question)
        config = self._config(prompt)
        self._is_stopped, self.note, answer = False, None, ""
        self._answers += 1
        # Each answer is drawn anew, so that one to a question asked again may be another.
        options = PromptOptions(
            config.max_new_tokens, config.stop, config.seed, self._answers - 1, lambda: self._is_stopped
        )
        ended = None
        try:
            generator = self._text_generator.generator
            for pieces in generator.stream(self._text_generator.parameters, [prompt], config, prompt_options=[options]):
                answer += pieces[0].text
                ended = pieces[0].finished_by
                yield pieces[0].text
        finally:
            # A model may write what no message can hold.
            kept = answer.translate(_NO_TEXT)
            if kept.strip():
                self._turns.append((question, kept))
        self.note = self._note(answer, ended, config)

    def stop(self) -> None:
        """Has an answer that is being written end."""
        self._is_stopped = True

    def undo(self) -> str:
        """Takes the last question and its answer back, and returns the question.

        Raises:
          DataError: nothing was asked yet.
        """
        if not self._turns:
            raise DataError("nothing was asked yet")
        return self._turns.pop()[0]

    def retry(self) -> Iterator[str]:
        """Another answer to the last question."""
        return self.ask(self.undo())

    def reset(self) -> None:
        """Forgets the conversation; the system message stays."""
        self._turns = []

    def _prompt(self, question: str) -> np.ndarray:
        messages = [*self.messages(), Message("user", question)]
        return chat_prompt(self._form, self._text_generator.generator.need_tokenizer(), messages)

    def _config(self, prompt: np.ndarray) -> GenerationConfig:
        generator = self._text_generator.generator
        context = context_of(generator.decoder.model.config)
        if context is not None and len(prompt) >= context:
            raise DataError(
                f"the conversation has {len(prompt)} tokens, the model's context is {context}, which leaves no room "
                "for an answer; /undo takes the last question back, /reset begins anew"
            )
        ends = ends_of_answers(self._form, generator)
        given = dict(self._options)
        for name, more in ends.items():
            own = given.get(name, ())
            given[name] = (*((own,) if isinstance(own, str) else own), *more)
        return make_config(given)

    def _note(self, answer: str, ended: str | None, config: GenerationConfig) -> str | None:
        if self._is_stopped:
            return "(stopped)"
        if not answer.strip():
            return "(the model ended its answer without a word; the question was not kept)"
        if ended == "length":
            return f"(cut off after {config.max_new_tokens} tokens; /set max_new_tokens allows more)"
        if ended == "context":
            return "(cut off: the model's context is full; /reset begins anew)"
        return None


def _as_kind(name: str, value: str, default: Any) -> Any:
    """A value as the option's kind."""
    if name == "early_stopping":
        return {"true": True, "false": False}.get(value, value)
    if name == "stop":
        return (value,)
    if name == "stop_token_ids":
        kinds: Any = lambda text: tuple(map(int, text.split(",")))  # noqa: E731
    elif name == "logit_bias":
        kinds = lambda text: tuple(map(biased_token, text.split(",")))  # noqa: E731
    else:
        kinds = {int: int, float: float}.get(type(default), str)
    try:
        return kinds(value)
    except ValueError:
        raise RecipeError(f"{name}: {value!r} is no number") from None
