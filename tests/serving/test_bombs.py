"""Small requests that ask for very much: each is refused in its time, and others are answered meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
import time

import pytest
from asking import ask
from running import running

from jaxft.errors import RecipeError
from jaxft.generation.constraints.worker import ConstraintWorker
from jaxft.serving import constraints
from jaxft.serving.limits import Limits

# Forty times two references to the next.
_DOUBLED = {
    f"a{i}": {"type": "object", "properties": {n: {"$ref": f"#/$defs/a{i + 1}"} for n in "xy"}} for i in range(40)
}
_DOUBLED["a40"] = {"type": "null"}
_NESTED: dict = {"type": "null"}
for _ in range(200):
    _NESTED = {"type": "array", "items": _NESTED}
BOMBS = [
    {"regex": "(a{1000}){25}"},
    {"regex": "((a?){100}){100}"},
    {"regex": "(((){1000}){1000}){1000}"},
    {"regex": "((((a{1000}){1000}){1000}){1000}){1000}"},
    {"regex": "(.{1,100}x?){60}"},
    {"regex": "(a|b)*a(a|b){20}"},
    {"regex": "(" * 5000 + ")" * 5000},
    {"regex": "a" + "?" * 5000},
    {"regex": "a{1}" * 100_000},
    {"regex": "([a-z]{1,50}|[a-y]{1,60}|.{1,70}){10}"},
    {"json_schema": {"$ref": "#/$defs/a0", "$defs": _DOUBLED}},
    {"json_schema": {"anyOf": [{"$ref": "#/$defs/a0"}] * 900, "$defs": _DOUBLED}},
    {"json_schema": _NESTED},
    {"json_schema": {"type": "string", "maxLength": 10**9}},
    {"json_schema": {"type": "array", "items": {"type": "number"}, "minItems": 10**12}},
    {"json_schema": {"enum": ["a" * 100_000]}},
]  # fmt: skip


def test_bombs_are_refused_while_others_are_answered(served):
    """Thrice each, all at once; of a valid request, with a constraint of its own or without, every one is answered."""
    with running(served("decoder"), Limits(batch_size=4, max_tokens=64, time_limit=60)) as address:
        plain = {"prompt": "the cat", "max_tokens": 4, "temperature": 0}
        expected = ask(address, "/v1/completions", plain)[1]["choices"]
        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            bodies = [{"prompt": "a", **bomb} for bomb in BOMBS * 3]
            bombs = [threads.submit(ask, address, "/v1/completions", body) for body in bodies]
            answered = 0
            while not all(bomb.done() for bomb in bombs):
                status, found = ask(address, "/v1/completions", plain)
                assert status == 200 and found["choices"] == expected
                answered += 1
                time.sleep(0.05)
            statuses = {}
            for body, bomb in zip(bodies, bombs, strict=True):
                status, found = bomb.result()
                assert status in (400, 429), (str(body)[:80], found)
                assert len(found["error"]["message"]) < 1100
                statuses[status] = statuses.get(status, 0) + 1
        assert answered > 3 and statuses[400] >= len(BOMBS)
        status, found = ask(address, "/v1/completions", {"prompt": "a", "regex": "(yes|no)", "max_tokens": 8})
        assert status == 200 and found["choices"][0]["text"] in ("yes", "no")


def test_the_time_limit_holds_for_the_constraint_too(served, monkeypatch):
    """Whatever a constraint takes: the request is answered at its own limit, and the next one finds a worker."""
    monkeypatch.setattr(constraints, "_SECONDS", 0.3)
    with running(served("decoder"), Limits(batch_size=4, max_tokens=64)) as address:
        status, found = ask(address, "/v1/completions", {"prompt": "a", "regex": "(a{999}){19}", "max_tokens": 64})
        assert status == 400 and "takes more than" in found["error"]["message"]
    with running(served("decoder"), Limits(batch_size=4, max_tokens=64, time_limit=0.05)) as address:
        status, found = ask(address, "/v1/completions", {"prompt": "a", "regex": "(a{998}){19}", "max_tokens": 64})
        assert (status, found["error"]["code"]) == (408, "time_limit")


def test_a_worker_that_is_stopped_starts_again():
    worker = ConstraintWorker([bytes([byte]) for byte in range(256)])
    try:
        assert worker.table("regex", "a+", 10.0).table.shape[0] == 2
        with pytest.raises(RecipeError, match="takes more than"):
            worker.table("regex", "(a{1000}){19}", 0.1)
        assert worker.table("json_schema", json.dumps({"const": 1}), 10.0).table.shape[0] == 2
        worker.kill()
        with pytest.raises(RecipeError):
            worker.table("regex", "a", 10.0)
        assert worker.table("regex", "a", 10.0).table.shape[0] == 2
    finally:
        worker.close()
