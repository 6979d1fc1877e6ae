"""Processes meet, agree and fall together: real ones, which only talk."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxft.errors import JaxftError, RecipeError
from jaxft.parallel import rendezvous
from jaxft.parallel.rendezvous import Place, meet

PROGRAM = pathlib.Path(__file__).parent / "member.py"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def members(count: int, what: str):
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), port, str(count), str(index), what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes) -> list[tuple[int, str, str]]:
    told = [process.communicate(timeout=30) for process in processes]
    return [(process.returncode, *one) for process, one in zip(processes, told, strict=True)]


def test_all_see_what_each_gives_round_by_round():
    with members(3, "exchange") as processes:
        results = ended(processes)
    expected = [[{"from": index, "round": number} for index in range(3)] for number in range(3)]
    assert [(status, json.loads(out)) for status, out, _ in results] == [(0, expected)] * 3


def test_all_stop_after_one_step_that_none_has_passed():
    with members(3, "stop") as processes:
        results = ended(processes)
    assert {status for status, *_ in results} == {0}
    stops = [json.loads(out) for _, out, _ in results]
    assert stops[0] == stops[1] == stops[2] and stops[0][0] == "SIGTERM" and stops[0][1] > 5


def test_an_error_ends_all_with_its_status_and_reason():
    with members(3, "error") as processes:
        results = ended(processes)
    assert [status for status, *_ in results] == [3, 3, 3]
    assert all("process 2 of 3" in err and "rows are missing" in err for _, _, err in results[:2])


@pytest.mark.parametrize("index", [0, 2])
def test_a_killed_process_is_missed_by_all(index):
    with members(3, "killed") as processes:
        assert processes[2].stdout.readline() == "waiting\n"
        processes[index].send_signal(signal.SIGKILL)
        results = ended(processes)
    for number, (status, _, err) in enumerate(results):
        assert status == (-signal.SIGKILL if number == index else 1)
        assert number == index or (f"process {index} of 3" in err and "ended without a word" in err)


def test_a_process_that_is_stuck_is_named_and_ends_all():
    with members(3, "stuck") as processes:
        results = ended(processes)
    assert [status for status, *_ in results] == [1, 1, 1]
    for _, _, err in results:
        assert "process 2 of 3" in err and "did not go on" in err and "process 1 of 3" not in err


def test_who_does_not_come_is_named():
    with pytest.raises(JaxftError, match="1 of 3 processes came within 0 s; missing: 1, 2"):
        meet(Place("127.0.0.1", free_port(), 3, 0), timeout=0.3)


def test_a_coordinator_that_does_not_answer_is_given_up_in_time():
    with pytest.raises(JaxftError, match=r"found no coordinator at 127.0.0.1:.* Connection refused"):
        meet(Place("127.0.0.1", free_port(), 2, 1), timeout=0.3)


def test_somebody_else_at_that_port_is_no_coordinator():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = other.accept()
                    connection.sendall(b"HTTP/1.0 400 Bad request\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(JaxftError, match="what answers is not jaxft"):
            meet(Place("127.0.0.1", other.getsockname()[1], 2, 1), timeout=0.5)


@pytest.mark.parametrize(
    ("places", "problem"),
    [(((3, 0), (2, 1)), "another number of processes"), (((3, 0), (3, 1), (3, 1)), "two processes")],
)
def test_processes_that_contradict_each_other_are_refused(places, problem):
    port, raised = free_port(), []

    def join(count: int, index: int) -> None:
        try:
            meet(Place("127.0.0.1", port, count, index), timeout=10)
        except JaxftError as error:
            raised.append(error)

    threads = [threading.Thread(target=join, args=place) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(raised) == len(places)
    assert all(isinstance(error, RecipeError) and problem in str(error) for error in raised)


class Stranger(threading.Thread):
    """Somebody else who calls the port of a run and sends what a function gives, until the connection is cut."""

    def __init__(self, port: int, sent, pause: float = 0.0):
        super().__init__(daemon=True)
        self.port, self.sent, self.pause = port, sent, pause
        self.called = threading.Event()

    def run(self) -> None:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                caller = socket.create_connection(("127.0.0.1", self.port))
                break
        with caller, contextlib.suppress(OSError):
            for piece in self.sent():
                caller.sendall(piece)
                self.called.set()
                time.sleep(self.pause)
            caller.recv(1)


STRANGERS = {
    "deep nesting": (lambda: [b'{"jaxft": ' + b"[" * 4000 + b"\n"], 0.0),
    "a byte now and then": (lambda: itertools.repeat(b" "), 0.2),
    "nothing": (lambda: [b""], 0.0),
    "a line without end": (lambda: itertools.repeat(b"x" * 4096), 0.0),
    "no object": (lambda: [b"[1]\n"], 0.0),
    "bytes": (lambda: [bytes(range(256)) + b"\n"], 0.0),
    "HTTP": (lambda: [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"], 0.0),
    "no member": (lambda: [b'{"jaxft": {"index": 1}}\n'], 0.0),
    "no numbers": (lambda: [b'{"jaxft": [true, 2, "host", {}]}\n'], 0.0),
    "a member without a name": (lambda: [b'{"jaxft": [1, 2, [], 5]}\n'], 0.0),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_neither_end_nor_hold_a_run(kind):
    """Three of them call before the second process does."""
    port, channels = free_port(), {}

    def join(index: int) -> None:
        channels[index], _ = meet(Place("127.0.0.1", port, 2, index), timeout=20)

    first = threading.Thread(target=join, args=(0,))
    first.start()
    strangers = [Stranger(port, *STRANGERS[kind]) for _ in range(3)]
    for stranger in strangers:
        stranger.start()
    for stranger in strangers:
        stranger.called.wait(10)
    join(1)
    first.join()
    try:
        given = threading.Thread(target=lambda: channels[1].exchange("b"))
        given.start()
        assert channels[0].exchange("a") == ["a", "b"]
        given.join()
    finally:
        for channel in channels.values():
            channel.close()


@pytest.mark.parametrize(
    "answer",
    [b" ", b"x" * 4096, b'{"members": 5, "port": 1}\n', b'{"members": [[]], "port": 1}\n', b'{"refused": 5}\n'],
)
def test_a_stranger_in_the_place_of_the_first_process_holds_nobody(monkeypatch, answer):
    monkeypatch.setattr(rendezvous, "_LEAD_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answers() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = other.accept()
                    with contextlib.suppress(OSError):
                        while True:
                            connection.sendall(answer)
                            time.sleep(0.1)

        threading.Thread(target=answers, daemon=True).start()
        with pytest.raises(JaxftError, match="found no coordinator"):
            meet(Place("127.0.0.1", other.getsockname()[1], 2, 1), timeout=0.3)


@pytest.mark.parametrize(
    "said",
    [b"{}", b'{"kind": []}', b'{"kind": "more"}', b'{"kind": "mark", "moves": 0, "limit": "x"}', b"[" * 10**5, b'"a"'],
)
def test_what_no_process_says_ends_the_run_with_a_word(said):
    port = free_port()
    command = [sys.executable, str(PROGRAM), str(port), "2", "0", "exchange"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                caller = socket.create_connection(("127.0.0.1", port))
                break
            time.sleep(0.05)
        with caller:
            caller.sendall(b'{"jaxft": [1, 2, "here", 5]}\n')
            caller.recv(1 << 16)
            caller.sendall(said + b"\n")
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "process 1 of 2 (pid 5 on here) says what no process of a run says" in err and "Traceback" not in err
