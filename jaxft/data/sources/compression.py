"""Compressed files, read as what they hold: gzip, xz and Zstandard, chosen by a file's suffix.

Decompressed frame by frame here, as the readers at hand lose data without a word: lzma's takes a damaged second stream
for the end of the file, and zstandard's takes a file that is cut off for one that ends.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from jaxft.data.sources.extras import import_extra

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".gz", ".xz", ".zst")
_BUFFER_BYTES = 1 << 18
# Small, as what comes of it is held at once: a Zstandard block of 4 bytes can stand for 128 KiB.
_PIECE_BYTES = 1 << 10


class DamagedStream(Exception):
    """Compressed data that can't be read to its end.

    Attributes:
      reason: ``truncated`` or ``corrupt``.
      problem: what is wrong, as a clause.
    """

    def __init__(self, reason: str, problem: str):
        super().__init__(problem)
        self.reason = reason
        self.problem = problem


def decompressed(stream: BinaryIO, suffix: str, name: str) -> BinaryIO:
    """What a compressed stream holds; the stream itself for any suffix but those of SUFFIXES.

    All that comes before a damage can be read; then reading raises DamagedStream. Several compressed streams one after
    the other, as parallel compressors write them, are one.

    Raises:
      RecipeError: the package for Zstandard is not installed.
    """
    if suffix not in SUFFIXES:
        return stream
    if suffix == ".gz":
        reader = _Decompressed(stream, lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), zlib.error)
    elif suffix == ".xz":
        reader = _Decompressed(stream, lzma.LZMADecompressor, lzma.LZMAError)
    else:
        zstandard = import_extra("zstandard", "zstd", f"reading {name}")
        reader = _Decompressed(stream, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)
    return io.BufferedReader(reader, _BUFFER_BYTES)


class _Decompressed(io.RawIOBase):
    """A stream of what another holds in compressed frames.

    `new_frame` makes a decompressor of one frame, as those of zlib and lzma are, and `error` is what it raises.
    """

    def __init__(self, stream: BinaryIO, new_frame: Callable[[], Any], error: type[Exception]):
        self._stream = stream
        self._new_frame = new_frame
        self._error = error
        self._frame: Any = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._ready:
            self._compressed = self._compressed or self._stream.read(_PIECE_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    problem = "the compressed file is cut off: it ends before its content does"
                    raise DamagedStream("truncated", problem)
                return 0
            self._ready = memoryview(self._decompress())
        into = memoryview(buffer)
        length = min(len(into), len(self._ready))
        into[:length], self._ready = self._ready[:length], self._ready[length:]
        return length

    def _decompress(self) -> bytes:
        if self._frame is None:
            # Zeros between frames are padding, as tape drives and xz's blocks need it.
            self._compressed = self._compressed.lstrip(b"\0")
            if not self._compressed:
                return b""
            self._frame = self._new_frame()
        try:
            data = self._frame.decompress(self._compressed)
        except self._error as error:
            raise DamagedStream("corrupt", f"the compressed file is damaged: {error}") from None
        self._compressed = b""
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None
        return data
