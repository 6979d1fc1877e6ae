"""What the package logs, shown to the user beside the progress."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def shown_through(show: Callable[[str], None]) -> Iterator[None]:
    """Hands every message of the logger `jaxft` from INFO on to `show`, instead of where it went before."""
    logger = logging.getLogger("jaxft")
    handler = logging.Handler()
    handler.emit = lambda record: show(record.getMessage())
    old_handlers, old_level = logger.handlers[:], logger.level
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers = old_handlers
        logger.setLevel(old_level)
