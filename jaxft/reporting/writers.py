"""Where the metrics of a run go: a file of JSON lines always, TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import json
import math
import numbers
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from jaxft.errors import DataError, RecipeError
from jaxft.reporting.atomic import write_atomically

_RESERVED = frozenset({"step", "kind", "time"})


class MetricWriter(Protocol):
    """Anything that takes the metrics of a run as they come."""

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Takes the values of one step.

        Args:
          step: updates done so far.
          kind: `train` or `evaluation`.
          values: metric name to value, such as `task.loss`; NaN and infinities are allowed.
        """

    def close(self) -> None:
        """Writes out what is still buffered; nothing is written after it."""


class JsonlWriter:
    """Appends one JSON object a line at once, so that a killed run loses at most the line it was writing.

    A row is `{"step": 10, "kind": "train", "time": <seconds since 1970>, **values}`. Values that are not finite
    become null, since JSON has no word for them.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens `path` for appending, after dropping a line that a killed run left unfinished.

        Raises:
          DataError: a line before the last is not a row.
          OSError: the file cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _ends_cleanly(path):
            write_atomically(path, _joined(line for line, _ in _parse_lines(path)))
        # Without a buffer, so that a row that could not be written is not tried again when the file is closed.
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Appends one row; see `MetricWriter.write`.

        Raises:
          ValueError: a value is named `step`, `kind` or `time`.
        """
        if clash := _RESERVED & values.keys():
            raise ValueError(f"metric names that rows use themselves: {sorted(clash)}")
        row = {"step": int(step), "kind": kind, "time": round(time.time(), 3)}
        row |= {name: _json_number(value) for name, value in values.items()}
        line = memoryview(json.dumps(row, allow_nan=False).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a metrics file, without the last line where a killed run left that unfinished.

    Args:
      path: a file that `JsonlWriter` wrote.

    Raises:
      DataError: any other line is not a row.
      FileNotFoundError: there is no such file.
    """
    return [row for _, row in _parse_lines(Path(path))]


def truncate_after(path: str | os.PathLike[str], step: int) -> None:
    """Drops the rows of later steps and an unfinished last line, so that a resumed run writes no step twice.

    The file is replaced atomically; rows that stay are kept byte for byte. A missing file is left missing.

    Args:
      path: a file that `JsonlWriter` wrote, not open for writing.
      step: the step that the run resumes from, whose own rows stay.

    Raises:
      DataError: a line before the last is not a row.
    """
    path = Path(path)
    if path.exists():
        write_atomically(path, _joined(line for line, row in _parse_lines(path) if row["step"] <= step))


def rows_written(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The length in bytes and the checksum of a metrics file, by which `rows_are_as_written` knows it again."""
    path = Path(path)
    content = path.read_bytes() if path.exists() else b""
    return {"bytes": len(content), "crc32": zlib.crc32(content)}


def rows_are_as_written(path: str | os.PathLike[str], known: Mapping[str, Any] | None) -> bool:
    """Whether a metrics file still begins with the rows that it had.

    Args:
      path: a file that `JsonlWriter` wrote.
      known: what `rows_written` gave; None where nobody asked, as in runs of earlier versions.
    """
    if known is None:
        return True
    path = Path(path)
    content = path.read_bytes()[: known["bytes"]] if path.exists() else b""
    return len(content) == known["bytes"] and zlib.crc32(content) == known["crc32"]


def _parse_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line with the row it holds; a last line that neither ends nor parses is left out."""
    *finished, last = path.read_bytes().split(b"\n")
    parsed = [(line, _parse_row(line, path, number)) for number, line in enumerate(finished, start=1) if line.strip()]
    if last.strip():
        with suppress(DataError):  # the run was killed while it wrote this line
            parsed.append((last, _parse_row(last, path, len(finished) + 1)))
    return parsed


def _parse_row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not a JSON object ({error}); delete the line to go on") from None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise DataError(f'{path}, line {number}: expected an object with a whole "step", found {line[:80]!r}')
    return row


def _ends_cleanly(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _json_number(value: Any) -> float | int | None:
    if isinstance(value, numbers.Integral):
        return int(value)
    if value is None or not math.isfinite(number := float(value)):
        return None
    return number


class TensorBoardWriter:
    """Writes scalars named `<kind>/<metric>` for TensorBoard."""

    def __init__(self, directory: str | os.PathLike[str]):
        """Opens an event file in `directory`.

        Raises:
          RecipeError: the optional package `tensorboardX` is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing_extra("TensorBoard", "tensorboard", error) from error
        self._writer = SummaryWriter(logdir=str(directory))

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one scalar for each value; see `MetricWriter.write`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", float(value), step)

    def close(self) -> None:
        """Writes out what is buffered and closes the event file."""
        self._writer.close()


class WandbWriter:
    """Logs values named `<kind>/<metric>` to Weights & Biases."""

    def __init__(self, project: str, name: str, directory: str | os.PathLike[str]):
        """Starts a Weights & Biases run.

        Args:
          project: the project on the service.
          name: the name shown for the run.
          directory: where the client keeps its local files; made if missing.

        Raises:
          RecipeError: the optional package `wandb` is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise _missing_extra("Weights & Biases", "wandb", error) from error
        Path(directory).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=project, name=name, dir=str(directory))

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Logs all values at `step`; see `MetricWriter.write`."""
        self._run.log({f"{kind}/{name}": float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run on the service after its data arrived."""
        self._run.finish()


def _missing_extra(service: str, extra: str, error: ImportError) -> RecipeError:
    return RecipeError(
        f"metrics should go to {service}, but its package cannot be imported ({error}); "
        f"install it with: pip install 'jaxft[{extra}]'"
    )


class CombinedWriter:
    """Hands every row to several writers, in order."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = tuple(writers)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Writes to each of the writers; see `MetricWriter.write`."""
        for writer in self._writers:
            writer.write(step, kind, values)

    def close(self) -> None:
        """Closes every writer, also where closing one of them fails, and then raises what failed."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)
