"""A file that may lie on this machine or behind a URL, opened alike."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from jaxft.data.sources.compression import SUFFIXES, decompressed
from jaxft.data.sources.extras import import_extra
from jaxft.errors import RecipeError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file, or a folder, of a file system that fsspec knows.

    Attributes:
      url: as the user wrote it or a wildcard found it.
      path: as its file system calls it.
      filesystem: an ``fsspec.AbstractFileSystem``.
    """

    url: str
    path: str
    filesystem: Any

    def __str__(self) -> str:
        return self.url


File = Path | RemoteFile


@dataclass(frozen=True)
class WatchedFile:
    """A file that tells how much of it was read.

    Attributes:
      file: itself.
      tell: called with further numbers of bytes.
    """

    file: File
    tell: Callable[[int], None]


# What can be opened.
ReadableFile = File | WatchedFile


class _Watched(io.RawIOBase):
    """A stream that is read from its beginning to its end, and tells of each piece."""

    def __init__(self, stream: io.BufferedReader, tell: Callable[[int], None]):
        self._stream, self._tell = stream, tell

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._stream.readinto(buffer)
        self._tell(count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def is_url(written: str) -> bool:
    """Whether a path of a recipe is a URL, such as ``gs://bucket/file``."""
    return _URL.match(written) is not None


def remote_file(key: str, url: str) -> RemoteFile:
    """The file of a URL, which need not exist.

    Raises:
      RecipeError: no package here knows this kind of URL, or it refuses this one; the message begins with `key`.
    """
    fsspec = import_extra("fsspec", "cloud", f"{key}: reading {url}")
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise RecipeError(f"{key}: {url!r}: {error}; pip install 'jaxft[cloud]' brings gs:// and s3://") from error
    # Each file system has exceptions of its own, also for credentials that are missing.
    except Exception as error:
        raise RecipeError(f"{key}: {url!r} can't be reached: {error}") from error
    return RemoteFile(url, path, filesystem)


def compression(file: ReadableFile) -> str:
    """The suffix by which a file is compressed; empty for any other."""
    if isinstance(file, WatchedFile):
        return compression(file.file)
    path = PurePosixPath(urlsplit(file.url).path) if isinstance(file, RemoteFile) else file
    return path.suffix if path.suffix in SUFFIXES else ""


def size_of(file: File) -> int | None:
    """Bytes of a file as it lies there; None where that can't be told."""
    # Each file system has exceptions of its own.
    with contextlib.suppress(Exception if isinstance(file, RemoteFile) else OSError):
        return file.filesystem.size(file.path) if isinstance(file, RemoteFile) else file.stat().st_size
    return None


def open_file(file: ReadableFile, name: str) -> io.BufferedReader:
    """Opens a file for reading its bytes as they are.

    Raises:
      RecipeError: it can't be read.
    """
    if isinstance(file, WatchedFile):
        return io.BufferedReader(_Watched(open_file(file.file, name), file.tell), _BUFFER_BYTES)
    # Each file system has exceptions of its own.
    expected = Exception if isinstance(file, RemoteFile) else OSError
    try:
        if isinstance(file, RemoteFile):
            return io.BufferedReader(file.filesystem.open(file.path, "rb"), _BUFFER_BYTES)
        return file.open("rb")
    except expected as error:
        raise RecipeError(f"{name} can't be read: {getattr(error, 'strerror', None) or error}") from error


def open_content(file: ReadableFile, name: str) -> BinaryIO:
    """Opens a file for reading what it holds, which a suffix of compression says to decompress.

    Raises:
      RecipeError: it can't be read, or the package for its compression is not installed.
      DamagedStream: while it is read.
    """
    stream = open_file(file, name)
    try:
        return decompressed(stream, compression(file), name)
    except RecipeError:
        stream.close()
        raise
