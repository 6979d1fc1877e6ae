"""What the package logs, shown to the user beside the progress."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator


class _Told(logging.Handler):
    """Hands every message to a function."""

    def __init__(self, show: Callable[[str], None]):
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextlib.contextmanager
def shown_through(show: Callable[[str], None]) -> Iterator[None]:
    """Hands every message of the logger `jaxft` from INFO on to `show`, instead of where it went before."""
    logger = logging.getLogger("jaxft")
    old_handlers, old_level = logger.handlers[:], logger.level
    logger.handlers = [_Told(show)]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers = old_handlers
        logger.setLevel(old_level)
