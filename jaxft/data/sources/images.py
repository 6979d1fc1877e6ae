"""Folders of images, and an image as an array."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from jaxft.data.sources.extras import import_extra
from jaxft.data.sources.files import File, RemoteFile, is_url, open_file, remote_file
from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError, RecipeError


def image_rows(folder: File, name: str) -> Iterator[Scanned]:
    """One row ``{"image": path, "label": name of the subfolder}`` per file below a subfolder, in order of their paths.

    Every image is decoded to its end, as many are cut off. Files beside the subfolders, and hidden ones, are passed
    over.

    Raises:
      DataError: there is no file in any subfolder.
      RecipeError: Pillow is not installed, or the folder can't be read.
    """
    empty = True
    for file, place in labelled_files(folder):
        empty = False
        location = f"{name.rstrip('/')}/{place}"
        try:
            read_image(str(file), location)
        except DataError as defect:
            yield defect
        else:
            yield Row({"image": str(file), "label": place.partition("/")[0]}, location)
    if empty:
        raise DataError(f"{name} is empty: it has no subfolder, named after a label, with images", "empty_file")


def unlabelled_images(folder: Path) -> Iterator[Row]:
    """One row ``{"image": path}`` per file of a local folder, those that are hidden aside, in order of their names."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            yield Row({"image": str(file)}, str(file))


def labelled_files(folder: File) -> Iterator[tuple[File, str]]:
    """The files below the subfolders of a folder, each with its place in the folder, ``label/.../file``, sorted.

    Raises:
      RecipeError: a folder can't be read.
    """
    places = _remote_places(folder) if isinstance(folder, RemoteFile) else _local_places(folder)
    for place in sorted(places):
        if "/" in place and not any(part.startswith(".") for part in place.split("/")):
            yield _below(folder, place), place


def read_image(path: str, location: str) -> np.ndarray:
    """An image of a file or URL: uint8 ``(height, width, channels)``, where channels is 1 (grey) or 3 (RGB).

    Raises:
      DataError: it can't be decoded (``unreadable_image``).
      RecipeError: the file can't be read, or Pillow is not installed.
    """
    file = remote_file(location, path) if is_url(path) else Path(path)
    with open_file(file, location) as stream:
        return decode_image(stream, location)


def decode_image(stream: BinaryIO, location: str) -> np.ndarray:
    """An image of a stream, in the shape that `read_image` gives.

    Raises:
      DataError: it can't be decoded (``unreadable_image``).
      RecipeError: Pillow is not installed.
    """
    image_module = import_extra("PIL.Image", "images", "reading images")
    try:
        with image_module.open(stream) as image:
            return as_array(image)
    # Pillow's decoders have no exception in common: what is damaged ends in struct.error, SyntaxError, IndexError ...
    except Exception as error:
        raise DataError(f"{location}: not a readable image: {error}", "unreadable_image") from None


def as_array(image: Any) -> np.ndarray:
    """An image of Pillow in the shape that `read_image` gives: upright, as its EXIF data says, without transparency."""
    operations = import_extra("PIL.ImageOps", "images", "reading images")
    image = operations.exif_transpose(image)
    grey = image.mode in ("1", "L", "LA")
    array = np.asarray(image.convert("L" if grey else "RGB"))
    return array[..., None] if grey else array


def _local_places(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> NoReturn:
        raise RecipeError(f"{error.filename} can't be read: {error.strerror}") from error

    # Unless told otherwise it passes over what it can't read.
    for directory, _, names in os.walk(folder, onerror=refuse, followlinks=True):
        below = Path(directory).relative_to(folder)
        yield from ((below / name).as_posix() for name in names)


def _remote_places(folder: RemoteFile) -> Iterator[str]:
    for path in folder.filesystem.find(folder.path):
        yield path.removeprefix(folder.path).lstrip("/")


def _below(folder: File, place: str) -> File:
    if isinstance(folder, RemoteFile):
        join = "{}/{}".format
        return RemoteFile(join(folder.url.rstrip("/"), place), join(folder.path.rstrip("/"), place), folder.filesystem)
    return folder / place
