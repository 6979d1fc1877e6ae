"""Requests as they arrive, read strictly: an unknown key or a value of another kind is refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.errors import InvalidField
from jaxft.generation.config import GenerationConfig
from jaxft.generation.reader import Text
from jaxft.serving.errors import ApiError, outside_name

_NUMBER = (int, float)
_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
# Options of a request that are options of writing: their name there and their kinds.
_OPTIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "temperature": ("temperature", _NUMBER), "top_p": ("top_p", _NUMBER), "top_k": ("top_k", (int,)),
    "min_p": ("min_p", _NUMBER), "typical_p": ("typical_p", _NUMBER), "n": ("num_return_sequences", (int,)),
    "presence_penalty": ("presence_penalty", _NUMBER), "frequency_penalty": ("frequency_penalty", _NUMBER),
    "repetition_penalty": ("repetition_penalty", _NUMBER), "no_repeat_ngram": ("no_repeat_ngram", (int,)),
    "min_tokens": ("min_new_tokens", (int,)), "max_tokens": ("max_new_tokens", (int,)), "seed": ("seed", (int,)),
    "beams": ("beams", (int,)), "length_penalty": ("length_penalty", _NUMBER),
    "beam_groups": ("beam_groups", (int,)), "diversity_penalty": ("diversity_penalty", _NUMBER),
    "early_stopping": ("early_stopping", (bool, str)), "contrastive_alpha": ("contrastive_alpha", _NUMBER),
    "regex": ("regex", (str,)), "json_schema": ("json_schema", (str, dict)), "prefix": ("prefix", (str,)),
    "stop": ("stop", (str, list)), "stop_token_ids": ("stop_token_ids", (list,)), "logit_bias": ("logit_bias", (dict,)),
}  # fmt: skip
_OF_WRITING = ("model", "stream", "stream_options", "logprobs", *_OPTIONS)
# Most of the likeliest tokens that are told at a place, and how many the device keeps: few programs are compiled.
_MOST_LOGPROBS, _KEPT_LOGPROBS = {"completion": 5, "chat": 20}, (0, 5, 20)
# Continuations that contrastive search computes at each place.
_MOST_COMPARED = 64
# What may be there as long as it asks for nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
    "user": (), "metadata": (), "store": (None, False), "best_of": (None, 1),
    "suffix": (None, ""), "tools": (None, []), "tool_choice": (None, "none", "auto"),
    "functions": (None, []), "service_tier": (None, "auto", "default"),
    "parallel_tool_calls": (None, True, False), "modalities": (None, ["text"]),
}  # fmt: skip
# Its tokens are compared one by one in a program that is compiled for their number.
_LONGEST_NGRAM = 64
_MOST_BIASED, _MOST_BIAS = 1024, 100
# Any object, as OpenAI's `json_object`.
_ANY_OBJECT = json.dumps({"type": "object", "additionalProperties": True})
COMPLETION_KEYS = ("prompt", "echo", *_OF_WRITING)
CHAT_KEYS = ("messages", "max_completion_tokens", "response_format", "top_logprobs", *_OF_WRITING)
EMBEDDING_KEYS = ("model", "input", "encoding_format", "dimensions", "truncate")
CLASSIFY_KEYS = ("model", "input", "truncate")
FILL_KEYS = ("model", "input", "top_k", "truncate")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a request that has texts written asks for.

    Attributes:
      config: how they are written.
      is_stream: whether pieces are sent as they come.
      tells_usage: whether a stream ends with the numbers of tokens.
      tells_logs: whether the tokens' log-probabilities are told.
      likeliest: of how many of the likeliest tokens at each place they are told too.
      echoes: whether the prompt stands before what is written.
      writes: whether anything is written after it.
    """

    config: GenerationConfig
    is_stream: bool
    tells_usage: bool
    tells_logs: bool
    likeliest: int = 0
    echoes: bool = False
    writes: bool = True


def parse_body(body: bytes) -> dict[str, Any]:
    """The object that a request holds.

    Raises:
      ApiError: it is none.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number in JSON")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=refuse)
        # Halves of characters, which JSON can spell, are no text.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON in UTF-8: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, found {_kind(value)}")
    return value


def check_keys(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises ApiError for a key that is unknown, or asks for what there is not."""
    for key, value in body.items():
        if key in known:
            continue
        if key not in _IDLE:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ApiError(400, f"unknown key {key!r}; {hint}The keys here are {', '.join(known)}", key)
        if _IDLE[key] and value not in _IDLE[key]:
            if key in ("tools", "functions", "tool_choice"):
                raise ApiError(
                    400,
                    f"{key}: models here call no tools; leave it out. A response_format has answers that "
                    "programs can read",
                    key,
                )
            raise ApiError(400, f"{key}: not supported here; leave it out", key)


def wanted(body: Mapping[str, Any], is_chat: bool, longest: int) -> Wanted:
    """How the texts of a request are to be written.

    Args:
      body: of the request.
      is_chat: whether it is of a conversation, whose answers are long by default.
      longest: most tokens of a text.

    Raises:
      ApiError: an option has an impossible value.
    """
    options = dict(body)
    if options.get("max_completion_tokens") is not None:
        options["max_tokens"] = options["max_completion_tokens"]
    tells_logs, likeliest = _logprobs(options, is_chat)
    echoes = _flag(options, "echo")
    # So the log-probabilities of a text are asked for, without another.
    writes = not (echoes and _is_int(options.get("max_tokens")) and options["max_tokens"] == 0)
    if not writes:
        options["max_tokens"] = 1
    if (schema := _schema(options.pop("response_format", None))) is not None:
        options["json_schema"] = schema
    given = {}
    for name, (inside, kinds) in _OPTIONS.items():
        if (value := options.get(name)) is not None:
            given[inside] = _option(name, value, kinds)
    # As OpenAI has them; beams and contrastive search draw nothing.
    searches = given.get("beams", 1) > 1 or given.get("contrastive_alpha", 0) > 0
    given.setdefault("temperature", 0.0 if searches else 1.0)
    given.setdefault("max_new_tokens", longest if is_chat else min(16, longest))
    given["top_logprobs"] = min(kept for kept in _KEPT_LOGPROBS if kept >= likeliest)
    given.setdefault("seed", secrets.randbelow(2**32))
    if given["max_new_tokens"] > longest:
        raise ApiError(400, f"max_tokens: at most {longest} here, found {given['max_new_tokens']}", "max_tokens")
    if given.get("no_repeat_ngram", 0) > _LONGEST_NGRAM:
        raise ApiError(400, f"no_repeat_ngram: at most {_LONGEST_NGRAM} here", "no_repeat_ngram")
    if given.get("contrastive_alpha", 0) > 0 and given.get("top_k", 0) > _MOST_COMPARED:
        raise ApiError(400, f"top_k: at most {_MOST_COMPARED} with contrastive_alpha", "top_k")
    try:
        config = GenerationConfig(**given)
    except InvalidField as error:
        name = outside_name(error.field)
        raise ApiError(400, f"{name}: {error.problem}", name) from None
    stream = _flag(options, "stream")
    if stream and config.beams > 1:
        raise ApiError(400, "stream: beam search knows its text only at its end; leave out stream or beams", "stream")
    told = options.get("stream_options") or {}
    if not isinstance(told, dict) or set(told) - {"include_usage", "include_obfuscation"}:
        raise ApiError(400, "stream_options: must be an object with include_usage", "stream_options")
    tells_usage = told.get("include_usage") is True
    return Wanted(config, stream, tells_usage, tells_logs, likeliest, echoes, writes)


def _logprobs(options: Mapping[str, Any], is_chat: bool) -> tuple[bool, int]:
    """Whether log-probabilities are told, and of how many of the likeliest tokens at each place."""
    most = _MOST_LOGPROBS["chat" if is_chat else "completion"]
    name = "top_logprobs" if is_chat else "logprobs"
    count = options.get(name)
    if count is not None and not (_is_int(count) and 0 <= count <= most):
        raise ApiError(400, f"{name}: must be a whole number from 0 to {most}, found {_kind(count)}", name)
    tells = _flag(options, "logprobs") if is_chat else count is not None
    if count and not tells:
        raise ApiError(400, "top_logprobs: needs logprobs to be true", "top_logprobs")
    return tells, count or 0


def prompts_of(body: Mapping[str, Any]) -> list[str] | list[np.ndarray]:
    """The prompts of a completion: texts, or ids.

    Raises:
      ApiError: there is none.
    """
    value = body.get("prompt")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ApiError(400, f"prompt: must be text, or a list of texts or of token ids, found {_kind(value)}", "prompt")
    if all(isinstance(one, str) for one in value):
        return value
    lists = [value] if all(_is_int(one) for one in value) else value
    for one in lists:
        if not isinstance(one, list) or not one or not all(_is_int(token) and 0 <= token < 2**31 for token in one):
            raise ApiError(400, "prompt: must be text, or a list of texts or of token ids", "prompt")
    return [np.asarray(one, np.int32) for one in lists]


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a conversation, in our terms, with several of one side in a row as one; judged elsewhere.

    Raises:
      ApiError: there are none.
    """
    value = body.get("messages")
    if not isinstance(value, list) or not value:
        raise ApiError(
            400, f"messages: must be a list of messages with role and content, found {_kind(value)}", "messages"
        )
    messages: list[dict[str, Any]] = []
    for one in map(_message, value):
        last = messages[-1] if messages else {}
        are_texts = isinstance(one["content"], str) and isinstance(last.get("content"), str)
        # As people write who think of something more; templates know turns alone.
        if are_texts and one["role"] == last["role"]:
            messages[-1] = {**last, "content": f"{last['content']}\n\n{one['content']}"}
        else:
            messages.append(one)
    return messages


def texts_of(body: Mapping[str, Any], pairs: bool = False) -> list[Text]:
    """The texts that are to be read; also pairs of them.

    Raises:
      ApiError: there are none.
    """
    value = body.get("input")
    texts = [value] if isinstance(value, str) else value
    pair = ", or of pairs of texts" if pairs else ""
    wrong = ApiError(400, f"input: must be text, or a list of texts{pair}, found {_kind(value)}", "input")
    if not isinstance(texts, list) or not texts:
        raise wrong
    result: list[Text] = []
    for one in texts:
        if pairs and isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) for text in one):
            result.append((one[0], one[1]))
        elif isinstance(one, str):
            result.append(one)
        else:
            raise wrong
    return result


def truncates(body: Mapping[str, Any]) -> bool:
    """Whether texts that are too long are to be cut."""
    return _flag(body, "truncate")


def whole_number(body: Mapping[str, Any], name: str, default: int) -> int:
    """A number of a request."""
    value = body.get(name, default)
    if not _is_int(value):
        raise ApiError(400, f"{name}: must be a whole number, found {_kind(value)}", name)
    return value


def _option(name: str, value: Any, kinds: tuple[type[Any], ...]) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        right = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
        right = "a whole number" if kinds == (int,) else right
        raise ApiError(400, f"{name}: must be {right}, found {_kind(value)}", name)
    if name == "json_schema" and isinstance(value, dict):
        return json.dumps(value)
    if name == "stop":
        texts = [value] if isinstance(value, str) else value
        if len(texts) > 16 or not all(isinstance(text, str) for text in texts):
            raise ApiError(400, "stop: must be text or a list of at most 16 texts", name)
        return tuple(texts)
    if name == "stop_token_ids":
        if len(value) > 64 or not all(_is_int(token) for token in value):
            raise ApiError(400, "stop_token_ids: must be a list of at most 64 token ids", name)
        return tuple(value)
    return _biased(value) if name == "logit_bias" else value


def _biased(value: dict[str, Any]) -> tuple[tuple[int, float], ...]:
    """Ids of tokens and what is added to their logits."""
    are_right = (
        key.isdecimal()
        and len(key) < 10
        and isinstance(bias, _NUMBER)
        and not isinstance(bias, bool)
        and abs(bias) <= _MOST_BIAS
        for key, bias in value.items()
    )
    if len(value) > _MOST_BIASED or not all(are_right):
        raise ApiError(
            400,
            f"logit_bias: must be an object with at most {_MOST_BIASED} token ids, each with a number from "
            f"-{_MOST_BIAS} to {_MOST_BIAS}",
            "logit_bias",
        )
    return tuple(sorted((int(key), float(bias)) for key, bias in value.items()))


def _schema(form: Any) -> str | None:
    """The JSON schema that `response_format` asks for."""
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return _ANY_OBJECT
    inside = form.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inside, dict) or not isinstance(inside.get("schema"), dict):
        raise ApiError(
            400, "response_format: must be of type text, json_object, or json_schema with a schema", "response_format"
        )
    return json.dumps(inside["schema"])


def _message(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(400, f"messages: each must have role and content, found {_kind(value)}", "messages")
    role, content = value.get("role"), value.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
            raise ApiError(400, "messages: content can have parts of type text only", "messages")
        content = "".join(map(str, texts))
    return {"role": "system" if role == "developer" else role, "content": content}


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{name}: must be true or false, found {_kind(value)}", name)
    return bool(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list) and not value:
        return "an empty list"
    return _KINDS[type(value)]
