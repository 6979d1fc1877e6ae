"""Worker processes end with the one that started them, and say what became of them."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jaxft.data.processes import mapped_in_order
from jaxft.errors import JaxftError


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a dead one that nobody has fetched does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="asks the kernel's table of processes")
def test_workers_end_with_a_killed_parent(tmp_path):
    """While they compute and while they wait for more."""
    script = textwrap.dedent(f"""
        import os, pathlib, time
        from jaxft.data.processes import mapped_in_order
        def work(item):
            pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
            time.sleep(0.1 if item % 2 else 600)
        if __name__ == "__main__":
            with mapped_in_order(work, 2, ahead=1) as mapped:
                list(mapped(range(3)))
    """)
    (tmp_path / "parent.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")])
    deadline = time.monotonic() + 120
    while len(pids := [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert all(map(is_alive, pids))
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def killed(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_worker_that_is_killed_is_one_message():
    with (
        pytest.raises(JaxftError, match="one of 1 worker processes was killed"),
        mapped_in_order(killed, 1, 1) as mapped,
    ):
        list(mapped([1]))


def test_workers_that_cannot_be_started_are_one_message(monkeypatch):
    def refused(*arguments):
        raise FileNotFoundError(2, "No such file or directory")  # as without /dev/shm

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", refused)
    message = r"2 worker processes cannot be started .*data\.workers=0"
    with pytest.raises(JaxftError, match=message), mapped_in_order(killed, 2, 1):
        pass
