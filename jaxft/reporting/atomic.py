"""Replacing a file or a directory in one step: a reader sees the old one or the new one, and never half of either."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
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
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def directory_written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty directory to write to, which becomes `path` when the block ends without an error.

    Args:
      path: the directory to write; one that is there is replaced, missing parents are made.

    Raises:
      OSError: it cannot be written; an old one is then untouched.
    """
    path = Path(path)
    temporary = _beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _synchronize(file)
        if path.exists():  # of the two renames, a kill between them leaves no directory, and never half of one
            path.rename(old := _beside(path, "old"))
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_unfinished(directory: str | os.PathLike[str]) -> None:
    """Removes what killed processes left of writing in this directory, where nobody else writes meanwhile."""
    for path in Path(directory).glob(".*.[0-9]*.*"):
        if path.suffix not in (".tmp", ".old"):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path, kind: str = "tmp") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def _synchronize(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
