"""Requests made by chance out of right and wrong words: each is answered, or told in one message what is wrong."""

from __future__ import annotations

import random
from typing import Any

import pytest
from asking import ask

NUMBERS = [0, 1, -1, 2, 3, 0.5, 1e308, -1e308, 1e-320, 10**30, 2**31, 2**32, 2**63, 10**400, True, False]
TEXTS = [
    "",
    "a",
    "the cat",
    "\x00",
    "é𝄞",
    "a{²}",
    "[",
    "(a|b)*",
    "text",
    "[MASK]",
    "\\ud800",
    "x" * 300,
    "null",
    "auto",
]
ODD = [None, [], {}, [None], [[]], [{}], {"a": None}, [1, "a"], [[1, 2]], {"type": []}, {"5": 1}, {"²": 1}]
OPTIONS = [
    "temperature", "top_p", "top_k", "min_p", "typical_p", "n", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "no_repeat_ngram", "min_tokens", "seed", "beams", "length_penalty", "beam_groups",
    "diversity_penalty", "early_stopping", "contrastive_alpha", "regex", "json_schema", "prefix", "stop",
    "stop_token_ids", "logit_bias", "stream", "stream_options", "logprobs", "top_logprobs", "echo", "best_of", "suffix",
    "user", "tools", "tool_choice", "functions", "response_format", "max_completion_tokens", "max_tokens", "model",
    "input", "prompt", "messages", "encoding_format", "dimensions", "truncate", "metadata", "store", "modalities",
]  # fmt: skip
READ = ["input", "top_k", "truncate", "model", "encoding_format", "dimensions", "user", "prompt"]
# Values that many of these keys can have.
LIKELY = [0, 1, 2, 0.5, 0.9, False, None]
SCHEMA_KEYS = [
    "type", "properties", "required", "items", "minItems", "maxItems", "minLength", "maxLength", "pattern", "enum",
    "const", "anyOf", "oneOf", "$ref", "additionalProperties", "$defs", "title", "minimum",
]  # fmt: skip
KINDS = ["string", "object", "array", "integer", "number", "boolean", "null", "any"]


def anything(draws: random.Random, levels: int = 2) -> Any:
    """A value of any kind."""
    kind = draws.randrange(8 if levels else 4)
    if kind < 4:
        return draws.choice((NUMBERS, TEXTS, ODD, KINDS)[kind])
    if kind == 4:
        return [anything(draws, levels - 1) for _ in range(draws.randrange(4))]
    if kind == 5:
        return {draws.choice(TEXTS + SCHEMA_KEYS): anything(draws, levels - 1) for _ in range(draws.randrange(4))}
    return schema(draws, levels)


def schema(draws: random.Random, levels: int) -> dict[str, Any]:
    """A JSON schema, mostly a wrong one."""
    made: dict[str, Any] = {"type": draws.choice(KINDS)} if draws.random() < 0.8 else {}
    for _ in range(draws.randrange(4)):
        key = draws.choice(SCHEMA_KEYS)
        inner = draws.random() < 0.5 and levels > 0
        if key in ("properties", "$defs") and inner:
            made[key] = {name: schema(draws, levels - 1) for name in "ab"}
        elif key in ("items", "additionalProperties") and inner:
            made[key] = schema(draws, levels - 1)
        elif key in ("anyOf", "oneOf") and inner:
            made[key] = [schema(draws, levels - 1)]
        elif key == "$ref" and inner:
            made[key] = draws.choice(["#", "#/", "#/$defs/a", "#/properties/a", "#/$defs/a/type", "a"])
        else:
            made[key] = anything(draws, max(0, levels - 1))
    return made


def request(draws: random.Random, path: str) -> dict[str, Any]:
    """A request to a path, right but for a few of its words."""
    right: dict[str, dict[str, Any]] = {
        "completions": {"prompt": "the cat", "max_tokens": 2},
        "chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    }
    body = dict(right.get(path, {"input": "the [MASK] film"}))
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        key = draws.choice(OPTIONS if path in right else READ)
        if key in ("json_schema", "response_format") and draws.random() < 0.8:
            wanted = schema(draws, 2)
            named = {"type": "json_schema", "json_schema": {"name": "a", "schema": wanted}}
            body[key] = wanted if key == "json_schema" else named
        elif key == "messages":
            roles = ["system", "user", "assistant", "developer", "tool", 3, None, []]
            contents = ["a", "", None, 3, [], [{"type": "text", "text": "a"}], [{"type": "image_url"}], "\ufdd0", {}]
            body[key] = [
                {"role": draws.choice(roles), "content": draws.choice(contents)} for _ in range(draws.randrange(4))
            ]
        else:
            body[key] = draws.choice(LIKELY) if draws.random() < 0.4 else anything(draws)
    return body


PATHS = [
    ("decoder", "completions", 500), ("decoder", "chat/completions", 250), ("classifier", "classify", 60),
    ("masked", "fill-mask", 60), ("masked", "embeddings", 60),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("model", "path", "count"), PATHS)
def test_no_request_is_a_defect(model, path, count, address):
    draws = random.Random(path)
    seen: dict[int, int] = {}
    for _ in range(count):
        body = request(draws, path)
        status, found = ask(address(model), f"/v1/{path}", body)
        assert status in (200, 400, 404), (body, found)
        if status == 200 and isinstance(found, str):
            assert '"code": "' not in found and '"type": "server_error"' not in found, (body, found)
        elif status != 200:
            message = found["error"]["message"]
            assert message and "Traceback" not in message and len(message) < 1100
        seen[status] = seen.get(status, 0) + 1
    assert seen[200] and seen[400] > count / 4
