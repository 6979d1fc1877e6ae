"""Images and labels as NumPy saves them, read one image at a time."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from jaxft.data.sources.files import ReadableFile, open_file
from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError, RecipeError

IMAGES, LABELS = "images", "labels"


def array_rows(file: ReadableFile, name: str) -> Iterator[Scanned]:
    """One row ``{"image": array, "label": number or text}`` per image of an ``.npz`` file, numbered from 1.

    The file holds ``images``, numbers whose first axis counts the images, and ``labels``, one for each, as
    ``numpy.savez`` and ``numpy.savez_compressed`` write them.

    Raises:
      DataError: the file is empty, damaged, or not of this form.
      RecipeError: it can't be read.
    """
    with open_file(file, name) as stream, _damage(name), zipfile.ZipFile(stream) as archive:
        missing = [array for array in (IMAGES, LABELS) if f"{array}.npy" not in archive.namelist()]
        if missing:
            found = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "nothing"
            raise DataError(f"{name}: there is no array {missing[0]!r}; found {found}", "missing_column")
        with archive.open(f"{LABELS}.npy") as member:
            labels = np.lib.format.read_array(member, allow_pickle=False)
        with archive.open(f"{IMAGES}.npy") as member:
            shape, dtype = _header(member, name)
            if labels.ndim != 1 or len(labels) != shape[0]:
                problem = f"{shape[0]} images, but labels of shape {labels.shape}"
                raise DataError(f"{name}: {problem}; there must be one label for each image", "wrong_columns")
            if not len(labels):
                raise DataError(f"{name} is empty: it has no images", "empty_file")
            for number, label in enumerate(labels.tolist(), start=1):
                yield _row(_read_image(member, shape[1:], dtype), label, f"{name}:{number}")


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{name}: damaged, or not an .npz file: {error}", "corrupt") from error
    except OSError as error:
        raise RecipeError(f"{name} can't be read: {error.strerror or error}") from error


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(member)
    if fortran_order or dtype.kind not in "buif" or len(shape) < 2:
        order = "Fortran" if fortran_order else "C"
        problem = f"must be numbers in C order with an axis of images first; found {shape}, {dtype}, {order} order"
        raise DataError(f"{name}: {IMAGES} {problem}", "wrong_columns")
    return shape, dtype


def _read_image(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    length = math.prod(shape) * dtype.itemsize
    content = member.read(length)
    if len(content) < length:
        raise EOFError("the images end before their last one")
    return np.frombuffer(content, dtype).reshape(shape)


def _row(image: np.ndarray, label: object, location: str) -> Scanned:
    numbers: list[Any] = [image, label] if isinstance(label, float) else [image]
    if not all(np.isfinite(one).all() for one in numbers):
        return DataError(f"{location}: NaN or infinity among the numbers", "not_a_number")
    return Row({"image": image, "label": label}, location)
