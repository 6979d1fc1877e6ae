"""Conversations: messages, and the templates that make one text of them.

form = chat_format(None, tokenizer)
ids = prompt_ids(form, tokenizer, checked_messages([{"role": "user", "content": "Why?"}], "prompt"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, cast

import numpy as np

from jaxft.data.chat.messages import Message, checked_messages, read_messages, texts_of
from jaxft.data.chat.own_template import OwnTemplate
from jaxft.data.chat.templates import ChatTemplate, TemplateName, Turns, template_for
from jaxft.data.tokenizers import Part, Tokenizer
from jaxft.errors import RecipeError

__all__ = [
    "ChatFormat",
    "ChatTemplate",
    "FormatName",
    "Message",
    "OwnTemplate",
    "TemplateName",
    "Turns",
    "chat_format",
    "checked_messages",
    "end_of_turn",
    "prompt_ids",
    "read_messages",
    "texts_of",
]

FormatName = Literal["own", "chatml", "llama3", "llama2", "mistral", "gemma", "plain"]


class ChatFormat(Protocol):
    """How conversations are written.

    Attributes:
      jinja: the same as a chat template of transformers.
    """

    @property
    def jinja(self) -> str: ...

    def conversation(self, messages: Sequence[Message], turns: Turns) -> tuple[Part, ...]:
        """A whole conversation, of which the model learns every answer and its end, or the last.

        Raises:
          DataError: it can't be written so.
        """

    def prompt(self, messages: Sequence[Message]) -> tuple[Part, ...]:
        """A conversation that ends with the user's words, and the beginning of the answer's turn.

        Raises:
          DataError: it can't be written so.
        """


def chat_format(name: FormatName | None, tokenizer: Tokenizer) -> ChatFormat:
    """A format by its name.

    Args:
      name: of a template; `own` for the tokenizer's; None for the tokenizer's where it has one, else `chatml` where it
        has the special tokens of that, else `plain`.
      tokenizer: of the model.

    Raises:
      RecipeError: the tokenizer has no template, or one that can't be used.
    """
    own = tokenizer.chat_template
    if name == "own" and own is None:
        raise RecipeError("chat_template: own: the tokenizer's files have none; name one of the others")
    if own is not None and name in ("own", None):
        return OwnTemplate(own, tokenizer.token_names)
    if name is None:
        ((ids, _),) = tokenizer.encode_parts([[Part("<|im_start|><|im_end|>", template=True)]])
        name = "chatml" if set(ids.tolist()) <= tokenizer.special_ids - {tokenizer.unknown_id} else "plain"
    return template_for(cast(TemplateName, name), tokenizer)  # `own` has been returned


def prompt_ids(form: ChatFormat, tokenizer: Tokenizer, messages: Sequence[Message]) -> np.ndarray:
    """What a model reads before it answers, int32 (length,); nothing is to be put before it.

    Raises:
      DataError: the conversation can't be written so.
    """
    ((ids, _),) = tokenizer.encode_parts([form.prompt(messages)])
    return ids


def end_of_turn(form: ChatFormat, tokenizer: Tokenizer) -> np.ndarray:
    """The ids that a model writes after its answer, int32; empty where the format ends answers with nothing.

    One special id, unless the tokenizer lacks the special token and writes it as text.
    """
    probe = form.conversation((Message("user", "Why?"), Message("assistant", "So.")), "every")
    answered = max(number for number, part in enumerate(probe) if not part.template)
    tail = [Part(part.text, part.template, learned=part.learned and i > answered) for i, part in enumerate(probe)]
    ((ids, learned),) = tokenizer.encode_parts([tail])
    return ids[learned]
