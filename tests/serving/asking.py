"""Requests by hand, so that they can be wrong in every way."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and answer, JSON where it is; a body that is bytes is sent as it is."""
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, given), timeout=60) as answer:
            return answer.status, _read(answer)
    except urllib.error.HTTPError as error:
        return error.code, _read(error)


def _read(answer) -> Any:
    text = answer.read().decode()
    return json.loads(text) if answer.headers.get_content_type() == "application/json" else text


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection."""
    parts = urllib.parse.urlsplit(address)
    return await asyncio.open_connection(parts.hostname, parts.port)


def request(address: str, path: str, body: bytes, length: int | None = None) -> bytes:
    """A request as it goes over the wire."""
    host = urllib.parse.urlsplit(address).netloc
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of what comes back, chunks joined."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    rest = await reader.read()
    if "transfer-encoding: chunked" in head:
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        rest = body
    return int(head.split()[1]), rest
