"""Processes meet, agree and fall together: real ones, which only talk."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from jaxft.errors import JaxftError, RecipeError
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
