"""Instructions and conversations with a decoder: the loss is on the answers alone (Ouyang et al. 2022, 2203.02155)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.chat import FormatName, Turns, chat_format, end_of_turn, read_messages
from jaxft.data.sources import Row, text_column
from jaxft.data.store import LEARNED, PART_ENDS, TOKENS, Fields, Record
from jaxft.errors import DataError, InvalidField
from jaxft.objectives.causal_lm import CausalLM
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.rows import enclose, lay, lay_out
from jaxft.objectives.writing import TEXT_METRICS, WritesAnswers

_METRICS = ("loss", "perplexity", "accuracy")
_DEFAULTS = ("prompt", "response", "{prompt}\n")


@dataclasses.dataclass(frozen=True)
class InstructionConfig(ObjectiveConfig):
    """Instructions in a recipe: a prompt and its answer, or a conversation.

    Attributes:
      prompt: column with the instruction.
      response: column with the answer.
      template: text of the whole prompt, in which `{prompt}` stands for the instruction; the answer follows it.
      messages: column with a conversation, a list of `{role, content}`, in place of these three.
      chat_template: how a conversation is written: `own` as the tokenizer's own template has it, or one of the others
        by name; where None the tokenizer's own, or where it has none `chatml`, if it has the special tokens of that, or
        else `plain`.
      turns: which answers of a conversation are learned: every one, or the last.
      length: tokens of a row, longer examples are cut at their end; the model's `max_length` where None.
    """

    kind: Literal["instruction"] = "instruction"
    prompt: str = _DEFAULTS[0]
    response: str = _DEFAULTS[1]
    template: str = _DEFAULTS[2]
    messages: str | None = None
    chat_template: FormatName | None = None
    turns: Turns = "every"
    length: int | None = None

    def __post_init__(self) -> None:
        if self.messages is None and self.chat_template is not None:
            raise InvalidField("chat_template", "is for conversations; name their column: `messages: messages`")
        if self.messages is None and self.turns != "every":
            raise InvalidField("turns", "is for conversations; name their column: `messages: messages`")
        if self.messages is not None and (self.prompt, self.response, self.template) != _DEFAULTS:
            problem = "the messages hold prompts and answers; leave out prompt, response and template"
            raise InvalidField("messages", problem)
        if self.template.count("{prompt}") != 1:
            raise InvalidField("template", f"must hold {{prompt}} once, found {self.template!r}")

    def text_columns(self) -> tuple[str, ...]:
        """The conversation, or the prompt and its answer."""
        return (self.prompt, self.response) if self.messages is None else (self.messages,)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """A prompt and an answer, or a conversation of these."""
        if self.messages is None:
            return super().specimen(text, number)
        word, _, _ = text.partition(" ")
        return {self.messages: [{"role": "user", "content": word}, {"role": "assistant", "content": text}]}


class Instruction(CausalLM, WritesAnswers):
    """Predicts the tokens of answers from the prompts before them."""

    families = frozenset({"decoder"})
    truncate = True
    default_metrics = _METRICS
    metrics = (*_METRICS, *TEXT_METRICS)

    def __init__(self, config: InstructionConfig, context: ObjectiveContext):
        super().__init__(config, context)

    def fields(self, row: Row) -> Fields:
        """Prompt and answer."""
        answer = text_column(row, self._config.response)
        return Fields({TOKENS: (self._prompt(row), answer)}, self.kept_answer(answer))

    def unlabelled_fields(self, row: Row) -> Fields:
        """The prompt alone."""
        return Fields({TOKENS: (self._prompt(row), "")}, self.kept_answer(""))

    def _prompt(self, row: Row) -> str:
        return self._config.template.replace("{prompt}", text_column(row, self._config.prompt))

    def record_options(self) -> str:
        """The columns and the template."""
        config = self._config
        kept = " answers" if self.evaluating else ""
        return f"prompt={config.prompt} response={config.response} template={config.template}{kept}"

    def prompt(self, record: Record) -> np.ndarray:
        """The prompt after what begins a text."""
        return enclose(self._start, self.with_room(record[TOKENS][: int(record[PART_ENDS][0])]))

    def _weights(self, record: Record, key: np.random.Generator) -> np.ndarray:
        prompt = int(record[PART_ENDS][0])
        return np.where(
            np.arange(len(record[TOKENS]) + self.overhead) >= prompt + self.overhead - 1,
            super()._weights(record, key),
            0,
        )


class Conversation(CausalLM, WritesAnswers):
    """Predicts the tokens of the assistant's answers, and those that end them, from all before them.

    Attributes:
      form: how conversations are written.
    """

    families = frozenset({"decoder"})
    truncate = True
    default_metrics = _METRICS
    metrics = (*_METRICS, *TEXT_METRICS)

    def __init__(self, config: InstructionConfig, context: ObjectiveContext):
        super().__init__(config, context)
        self.form = chat_format(config.chat_template, context.tokenizer)
        # The template writes the whole text, whose last token is predicted but not read.
        self.overhead = -1

    def fields(self, row: Row) -> Fields:
        """The conversation as its template writes it.

        Raises:
          DataError: it is none, or none of its answers is among the tokens that a row holds (``too_long``,
            ``no_assistant``).
        """
        messages = read_messages(row, self._config.messages)
        try:
            parts = self.form.conversation(messages, self._config.turns)
        except DataError as error:
            raise DataError(f"{row.location}: {error}", error.reason) from None

        def check(record: Record) -> None:
            runs, tokens = record[LEARNED], len(record[TOKENS])
            if not len(runs):
                raise DataError(f"{row.location}: the tokenizer makes no token of what is learned", "no_assistant")
            if runs[0] >= self.longest:
                problem = f"the first answer that is learned begins after {runs[0]} of {tokens} tokens"
                raise DataError(f"{row.location}: {problem}, a row holds {self.length}", "too_long")

        return Fields({}, self.kept_answer(messages[-1].content), parts=parts, check=check)

    def record_options(self) -> str:
        """The column, the template, which answers are learned, and the length, as too long conversations are bad."""
        config, kept = self._config, " answers" if self.evaluating else ""
        return f"messages={config.messages} turns={config.turns} length={self.length} template={self.form.jinja}{kept}"

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What the template ends an answer with, where that is one token, and the end of a text."""
        return tuple(dict.fromkeys([*end_of_turn(self.form, self.tokenizer)[:1].tolist(), *super().end_ids]))

    def prompt(self, record: Record) -> np.ndarray:
        """The conversation up to its last answer."""
        return self.with_room(record[TOKENS][: int(record[LEARNED][-2])])

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row, as that of `CausalLM`."""
        pieces = [record[TOKENS] for record in records]
        return {
            **lay_out([piece[:-1] for piece in pieces], self.length, self.tokenizer.pad_id),
            "labels": lay([piece[1:] for piece in pieces], self.length),
            "label_weights": lay([_learned(record)[1:] for record in records], self.length, dtype=np.float32),
            "bytes": np.zeros((), np.float32),
        }


def _learned(record: Record) -> np.ndarray:
    """Which tokens of a record, cut at its end or whole, are learned: bool (tokens,)."""
    places = np.arange(len(record[TOKENS]))
    return np.searchsorted(record[LEARNED], places, side="right") % 2 == 1


def make_instruction(config: InstructionConfig, context: ObjectiveContext) -> Instruction | Conversation:
    """The objective of prompts and answers, or of conversations.

    Raises:
      RecipeError: the chat template can't be used.
    """
    return (Instruction if config.messages is None else Conversation)(config, context)
