"""The lines of a text file, in bounded memory, with what is wrong with each."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from jaxft.data.sources.compression import DamagedStream
from jaxft.data.sources.files import ReadableFile, open_content
from jaxft.errors import DataError, RecipeError

# No line, and no row of several lines, is held that is longer: one of 50 MB is a file of another kind, or a lost quote.
MAX_ROW_BYTES = 16 * 2**20
_SKIPPED_PIECE_BYTES = 1 << 16


class Line(NamedTuple):
    """A line of a file.

    Attributes:
      number: from 1.
      text: with the line ending. Where the line has a defect this is what could be made of it, by which a reader finds
        where the row ends; nothing for a line that is too long or missing.
      defect: what is wrong with the line.
    """

    number: int
    text: str
    defect: DataError | None

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing but whitespace, and nothing is wrong with it."""
        return self.defect is None and not self.text.strip()


def read_lines(file: ReadableFile, name: str) -> Iterator[Line]:
    """The lines of a file in UTF-8, whose byte order mark is dropped; only a newline byte ends a line.

    A line has a defect if it is not UTF-8 (``not_utf8``), holds a NUL (``nul``) or more than MAX_ROW_BYTES
    (``too_long``). A compressed file that is damaged has one more line at its end, with the defect ``truncated`` or
    ``corrupt``.

    Raises:
      DataError: the file is empty.
      RecipeError: it can't be read.
    """
    number = offset = 0
    with open_content(file, name) as stream:
        while True:
            try:
                encoded, length = _read_line(stream)
            except DamagedStream as damage:
                yield Line(number + 1, "", DataError(f"{name}:{number + 1}: {damage.problem}", damage.reason))
                return
            except OSError as error:
                raise RecipeError(f"{name} can't be read: {error.strerror or error}") from error
            if not length:
                break
            number += 1
            if number == 1 and encoded.startswith(codecs.BOM_UTF8):
                encoded, offset, length = encoded[3:], 3, length - 3
            yield _too_long(number, length, name) if length > len(encoded) else _decode(encoded, number, offset, name)
            offset += length
    if not number:
        raise DataError(f"{name} is empty", "empty_file")


def group_lines(lines: Iterable[Line], name: str, what: str) -> Iterator[list[Line]]:
    """Lines that stand together, between blank ones.

    Of a group of more than MAX_ROW_BYTES only one line is left, which has the defect ``too_long``.

    Args:
      lines: of one file.
      name: of the file.
      what: a group is, for the message.
    """
    group: list[Line] = []
    length = 0
    for line in lines:
        if line.is_blank:
            if group:
                yield group
            group, length = [], 0
        elif length <= MAX_ROW_BYTES:
            group.append(line)
            length += len(line.text)
            if length > MAX_ROW_BYTES:
                start = group[0].number
                group = [Line(start, "", too_long(f"{name}:{start}", f"{what} without a blank line is"))]
    if group:
        yield group


def too_long(location: str, what: str) -> DataError:
    """The defect of a row that would take too much memory."""
    return DataError(f"{location}: {what} longer than {MAX_ROW_BYTES // 2**20} MiB, which no row may be", "too_long")


def _read_line(stream: BinaryIO) -> tuple[bytes, int]:
    """The bytes of a line, or the first of them where it is too long, and how many it has."""
    encoded = stream.readline(MAX_ROW_BYTES + 1)
    length = len(encoded)
    if length > MAX_ROW_BYTES and not encoded.endswith(b"\n"):
        encoded = encoded[: len(codecs.BOM_UTF8)]
        while piece := stream.readline(_SKIPPED_PIECE_BYTES):
            length += len(piece)
            if piece.endswith(b"\n"):
                break
    return encoded, length


def _too_long(number: int, length: int, name: str) -> Line:
    return Line(number, "", too_long(f"{name}:{number}", f"a line of {length / 1e6:.1f} MB is"))


def _decode(encoded: bytes, number: int, offset: int, name: str) -> Line:
    try:
        text = encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = (
            f"not UTF-8: byte 0x{encoded[error.start]:02x} at byte offset {offset + error.start} of the file; "
            "save the file as UTF-8"
        )
        return Line(number, encoded.decode("utf-8", "replace"), DataError(f"{name}:{number}: {problem}", "not_utf8"))
    if "\0" in text:
        problem = f"a NUL character at column {text.index(chr(0)) + 1}; is this a text file?"
        return Line(number, text, DataError(f"{name}:{number}: {problem}", "nul"))
    return Line(number, text, None)
