"""Processes that must not outlive the one that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading


def end_with_parent() -> None:
    """Ends this process, started by `multiprocessing`, with its parent, without a word.

    A thread waits for the end of the pipe whose other side the parent alone has open, which also sees a parent that was
    gone before. Linux could send a signal instead, but sends it at the end of the thread that started the process.
    """
    threading.Thread(target=_wait, name="parent", daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
