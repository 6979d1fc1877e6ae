"""Replacing a file in one step, so that a reader sees the old text or the new one and never half of either."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to a temporary file beside `path` and renames it over `path`.

    Args:
      path: the file to write or replace; missing parent directories are made.
      content: the whole new content.

    Raises:
      OSError: the directory cannot be written; the old file is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: its files are readable by their owner only, and reports are there to be shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
