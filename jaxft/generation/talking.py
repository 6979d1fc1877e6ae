"""Talking to a model that writes: its conversations as prompts, and what ends its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np

from jaxft.data.chat import (
    ChatFormat,
    FormatName,
    Message,
    chat_format,
    checked_messages,
    end_of_turn,
    prompt_ids,
)
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import DataError, RecipeError
from jaxft.generation.generator import Generator

_NAMES = ", ".join(get_args(FormatName)[1:])


def form_for_chat(name: str | None, tokenizer: Tokenizer | None) -> ChatFormat:
    """How a model is talked to.

    Args:
      name: of a template; the tokenizer's own where None.
      tokenizer: of the model.

    Raises:
      RecipeError: the model has no template and none is named, or no such one is known.
    """
    if tokenizer is None:
        raise RecipeError("the model has no tokenizer, so that it can't be talked to")
    if name is not None and name not in get_args(FormatName):
        raise RecipeError(f"there is no chat template {name!r}; there are {_NAMES}, and own")
    if name is None and tokenizer.chat_template is None:
        raise RecipeError(
            "the model has no chat template, as it was not trained to talk; `jaxft generate` writes on from a text, "
            f"and --chat-template names a template all the same ({_NAMES})"
        )
    return chat_format(cast(FormatName | None, name), tokenizer)


def chat_prompt(form: ChatFormat, tokenizer: Tokenizer, messages: Sequence[Message | Mapping[str, Any]]) -> np.ndarray:
    """The ids of a conversation that the model is to answer, int32 `(length,)`.

    Raises:
      DataError: roles out of order, a last message that is not the user's, or a conversation that the template refuses.
    """
    given = [{"role": one.role, "content": one.content} if isinstance(one, Message) else one for one in messages]
    checked = checked_messages(given, "messages")
    if checked[-1].role != "user":
        raise DataError(f"messages: the last must be the user's, found {checked[-1].role}'s", "role_order")
    return prompt_ids(form, tokenizer, checked)


def ends_of_answers(form: ChatFormat, generator: Generator) -> dict[str, Any]:
    """What ends an answer beside the end token, as options of `GenerationConfig`."""
    tokenizer = generator.need_tokenizer()
    ids = end_of_turn(form, tokenizer)
    if not len(ids):
        return {}
    # Several tokens where the vocabulary lacks the special one.
    if len(ids) > 1 and int(ids[0]) not in tokenizer.special_ids:
        text = tokenizer.decode(ids).strip()
        return {"stop": (text,)} if text else {}
    return {"stop_token_ids": (int(ids[0]),)}
