"""Fifty clients at once, of whom many misbehave: every answer is what the same request gets alone."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from asking import answer, ask, connect, request
from running import running

from jaxft.serving.limits import Limits

LIMITS = Limits(batch_size=4, queue=24, max_tokens=48, max_body=4000, body_seconds=1.0, batches=3)
GOOD = [
    ("completions", {"prompt": "the cat", "max_tokens": 12, "temperature": 0}),
    ("completions", {"prompt": "it sat", "max_tokens": 20, "temperature": 0}),
    ("completions", {"prompt": ["yes", "no, perhaps"], "max_tokens": 9, "temperature": 0.9, "seed": 3}),
    ("completions", {"prompt": "the mat", "max_tokens": 16, "temperature": 0.9, "seed": 4}),
    ("completions", {"prompt": "the", "max_tokens": 14, "temperature": 0.9, "n": 2, "seed": 5, "stop": ["a", "e"]}),
    ("chat/completions", {"messages": [{"role": "user", "content": "is it?"}], "max_tokens": 12, "temperature": 0}),
]  # fmt: skip
BAD = [
    b"{",
    b"[]",
    b'{"prompt": 3}',
    b'{"prompt": "a", "temperature": -1}',
    b'{"prompt": "a", "nonsense": 1}',
    b"\xff\xfe",
]


def said(body: bytes) -> list:
    """What an answer says, without what differs by time and chance."""
    found = json.loads(body)
    return [(c.get("text", c.get("message")), c["finish_reason"]) for c in found["choices"]] + [found["usage"]]


def streamed(body: bytes) -> list[str]:
    """The texts of a stream."""
    texts: dict[int, str] = {}
    lines = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-1]
    for line in lines[:-1]:
        for choice in json.loads(line)["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            texts[choice["index"]] = texts.get(choice["index"], "") + piece
    return [texts[i] for i in sorted(texts)]


async def _good(address: str, number: int, expected: list, turned_away: list[int]) -> None:
    """Asks until there is room, and compares."""
    path, body = GOOD[number]
    streams = number % 2 == 1
    while True:
        reader, writer = await connect(address)
        writer.write(request(address, f"/v1/{path}", json.dumps({**body, "stream": streams}).encode()))
        status, found = await answer(reader)
        writer.close()
        if status != 429:
            break
        assert json.loads(found)["error"]["code"] == "queue_full"
        turned_away.append(number)
        await asyncio.sleep(random.uniform(0.05, 0.2))
    assert status == 200, found
    if streams:
        texts = [one[0] if isinstance(one[0], str) else one[0]["content"] for one in expected[:-1]]
        assert streamed(found) == texts
    else:
        assert said(found) == expected


async def _leaves(address: str, after: float, streams: bool) -> None:
    """Goes away before the end."""
    body = {"prompt": "the cat", "max_tokens": 48, "temperature": 0, "stop_token_ids": [], "stream": streams}
    _, writer = await connect(address)
    writer.write(request(address, "/v1/completions", json.dumps(body).encode()))
    await writer.drain()
    await asyncio.sleep(after)
    writer.transport.abort()


async def _refused(address: str, body: bytes, status: int, length: int | None = None) -> None:
    reader, writer = await connect(address)
    writer.write(request(address, "/v1/completions", body, length))
    found, text = await answer(reader)
    writer.close()
    assert found == status and json.loads(text)["error"]["message"], (found, text)


async def _no_http(address: str) -> None:
    reader, writer = await connect(address)
    writer.write(b"\x16\x03\x01\x02 this is no request\r\n\r\n")
    assert b"400" in await reader.readline()
    writer.close()


async def _fifty(address: str, expected: list[list]) -> int:
    """All of them; returns how often one was turned away."""
    turned_away: list[int] = []
    draws = random.Random(0)
    tasks = [_good(address, i % len(GOOD), expected[i % len(GOOD)], turned_away) for i in range(24)]
    # Half of them soon, as a request whose program is there already is answered in a moment.
    tasks += [_leaves(address, draws.uniform(0.0, 1.5 if i < 5 else 0.1), i % 2 == 0) for i in range(10)]
    tasks += [_refused(address, body, 400) for body in BAD]
    tasks += [_refused(address, b'{"prompt": "' + b"a" * 5000 + b'"}', 413) for _ in range(3)]
    tasks += [_refused(address, b'{"prompt', 408, length=400) for _ in range(5)]  # the rest never comes
    tasks += [_no_http(address) for _ in range(2)]
    assert len(tasks) == 50
    draws.shuffle(tasks)
    await asyncio.gather(*tasks)
    return len(turned_away)


@pytest.mark.slow
def test_fifty_clients_at_once(served):
    with running(served("decoder"), LIMITS) as address:
        expected = []
        for path, body in GOOD:
            status, found = ask(address, f"/v1/{path}", body)
            assert status == 200, found
            expected.append(said(json.dumps(found).encode()))
        turned_away = asyncio.run(asyncio.wait_for(_fifty(address, expected), 240))
        assert ask(address, "/health") == (200, {"status": "ok"})
        numbers = dict(
            line.rsplit(" ", 1) for line in ask(address, "/metrics")[1].splitlines() if not line.startswith("#")
        )
        assert float(numbers["jaxft_waiting_texts"]) == 0
        counted = {
            s: float(numbers.get(f'jaxft_requests_total{{endpoint="completions",status="{s}"}}', 0))
            for s in (400, 408, 413, 429)
        }
        assert counted[400] == len(BAD) and counted[408] == 5 and counted[413] == 3
        of_chat = numbers.get('jaxft_requests_total{endpoint="chat/completions",status="429"}', 0)
        assert counted[429] + float(of_chat) >= turned_away
        assert float(numbers["jaxft_cancelled_total"]) > 0
        # Texts shared batches: fewer of these than requests.
        assert float(numbers["jaxft_batch_texts_sum"]) > float(numbers["jaxft_batch_texts_count"])
        path, body = GOOD[0]
        assert said(json.dumps(ask(address, f"/v1/{path}", body)[1]).encode()) == expected[0]
