"""The lock by which one process alone writes a run directory."""

from __future__ import annotations

import fcntl
import logging
import os
import pathlib
from typing import Self, TextIO

from jaxft.errors import JaxftError, RecipeError

LOCK_FILE = ".lock"
_logger = logging.getLogger("jaxft")


class DirectoryLock:
    """Holds a directory from its making to the end of its block; a context manager.

    The lock is the kernel's, on a file in the directory: it ends with the process, however that ends. But whoever
    removes the file lets a second process lock another one of the same name.
    """

    def __init__(self, directory: pathlib.Path):
        """
        Args:
          directory: which exists.

        Raises:
          RecipeError: another process holds it.
          OSError: it cannot be written.
        """
        self._directory = directory
        self._file = self._taken()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, mark: str) -> None:
        """Writes into the lock file what other processes of the run look for."""
        self._file.write(mark)
        self._file.flush()

    def check_held(self) -> None:
        """Whether the lock file is still the one that is locked; one that was removed is made anew.

        Raises:
          JaxftError: another process has made one, or the directory is gone.
        """
        if self._is_there(self._file):
            return
        problem = f"the lock file of {self._directory} was removed"
        if (self._directory / LOCK_FILE).exists():
            raise JaxftError(f"{problem}, and another process has taken its place: this one writes no more")
        try:
            taken = self._taken()
        except (OSError, RecipeError) as error:
            raise JaxftError(f"{problem}, and cannot be made again: {error}") from error
        self._file.close()
        self._file = taken
        _logger.warning("%s; it was made again", problem)

    def _taken(self) -> TextIO:
        while True:
            file = (self._directory / LOCK_FILE).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise RecipeError(f"run directory {self._directory}: another process is writing this run") from None
            except OSError as error:
                _logger.warning("%s lies where there are no locks (%s)", self._directory, error.strerror)
            if self._is_there(file):
                return file
            file.close()  # it was removed between its making and its locking

    def _is_there(self, file: TextIO) -> bool:
        try:
            return os.path.samestat((self._directory / LOCK_FILE).stat(), os.fstat(file.fileno()))
        except OSError:
            return False
