"""Connections that are slow, many or odd, and a server that is told to end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import pytest
from asking import ask
from running import TOKEN, running

from jaxft.serving.limits import Limits

BODY = json.dumps({"prompt": "the cat", "max_tokens": 4, "temperature": 0}).encode()


def opened(address: str, text: bytes) -> socket.socket:
    """A connection on which so much was said."""
    parts = urllib.parse.urlsplit(address)
    made = socket.create_connection((parts.hostname, parts.port), timeout=30)
    made.sendall(text)
    return made


def said(address: str, text: bytes) -> tuple[int, bytes]:
    """Status and all that comes back, up to the end of the connection."""
    with opened(address, text) as connection:
        found = b""
        while piece := connection.recv(65536):
            found += piece
    return int(found.split()[1]), found


def test_slow_headers_lock_nobody_out(served):
    """More of them than there may be connections, of whom each goes on to say a little, without the token."""
    limits = Limits(batch_size=4, max_tokens=64, connections=60, connections_per_address=40, header_seconds=2.0)
    with running(served("decoder"), limits, TOKEN) as address:
        slow = [opened(address, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ") for _ in range(100)]
        try:
            for number in range(5):
                for connection in slow:
                    try:
                        connection.sendall(b"a")
                    except OSError:  # it had to make room
                        continue
                status, _ = ask(address, "/v1/completions", BODY, authorization=f"Bearer {TOKEN}")
                assert status == 200, number
            ended = time.monotonic() + 20
            for connection in slow:
                connection.settimeout(max(0.1, ended - time.monotonic()))
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(10) == b""
        finally:
            for connection in slow:
                connection.close()


def test_those_that_are_answered_make_no_room(served):
    """Of one address no more than its share, while those that it has are answered to their end."""
    limits = Limits(batch_size=4, max_tokens=64, connections_per_address=3)
    head = POST + b"content-type: application/json\r\n"
    with running(served("decoder"), limits) as address:
        busy = [opened(address, head + b"content-length: %d\r\n\r\n" % len(BODY)) for _ in range(3)]
        time.sleep(0.2)
        with pytest.raises(OSError), opened(address, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n") as fourth:
            if not fourth.recv(10):
                raise ConnectionResetError
        for connection in busy:
            connection.sendall(BODY)
            assert b"200" in connection.recv(65536)
            connection.close()


POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
ODD = [
    (b"GET /health HTTP/1.1\r\nhost: [::1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nhost: localhost:80@elsewhere\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nhost: localhost:http\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nhost: local host\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nhost: localhost/\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n", 403),
    (b"GET /health HTTP/1.1\r\nhost: LocalHost:99999\r\nconnection: close\r\n\r\n", 200),
    (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", 400),
    (POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    (POST + b"content-length: -1\r\n\r\n", 400),
    (b"GET /%zz%00%ff HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 404),
    (b"GET http://elsewhere.example/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 404),
    (b"BREW / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405),
    (b"\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n", 400),
]  # fmt: skip


@pytest.mark.parametrize(("text", "status"), ODD)
def test_odd_requests_are_told(text, status, address):
    found, answer = said(address("decoder"), text)
    assert found == status
    if status != 200:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(("drain", "is_done"), [("30", True), ("0.2", False)])
def test_a_server_that_is_told_to_end_says_so_and_exits_with_0(directories, drain, is_done, tmp_path):
    """A stream that is being written has its last words: all of the text, or that the server ends."""
    command = [sys.executable, "-m", "jaxft", "serve", str(directories["decoder"]), "--port", "0"]
    command += ["--drain-seconds", drain, "--batch-size", "4"]
    given = os.environ | {"JAX_PLATFORMS": "cpu", "JAXFT_CACHE": str(tmp_path)}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given)
    try:
        line = server.stderr.readline()
        while " answers at " not in line:
            assert line, "it ended"
            line = server.stderr.readline()
        assert "common shapes compiled" in line
        address = line.split(" answers at ")[1].split()[0]
        body = {"prompt": "a", "max_tokens": 100, "temperature": 1.0, "seed": 1, "stream": True, "n": 4}
        sent = json.dumps(body | {"no_repeat_ngram": 3}).encode()  # compiled first, which takes longer than a moment
        head = POST + b"content-type: application/json\r\n"
        with opened(address, head + b"content-length: %d\r\n\r\n" % len(sent) + sent) as stream:
            found = stream.recv(65536)
            server.send_signal(signal.SIGTERM)
            while piece := stream.recv(65536):
                found += piece
        assert b" 200 " in found and (b"[DONE]" in found) == is_done
        assert (b"server_ending" in found) != is_done
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
