"""Images as arrays: brought to one size, and changed at random while training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxft.data.sources.extras import import_extra
from jaxft.data.sources.images import read_image
from jaxft.errors import DataError

# Weights of red, green and blue in what the eye calls bright (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])


def prepared(value: Any, size: int, channels: int, location: str) -> np.ndarray:
    """An image as a model takes it, but for the normalization: uint8 `(channels, size, size)`.

    It is resized to a square whatever its shape, bilinearly, as Hugging Face's image processor of ViT does.

    Args:
      value: a path or URL, or an array `(height, width)` or `(height, width, 1 or 3)`, of whole numbers from 0 to 255
        or of other numbers from 0 to 1.
      size: height and width.
      channels: 1 (grey) or 3 (RGB).
      location: of the row, for messages.

    Raises:
      DataError: it is no image.
      RecipeError: it can't be read, or Pillow is needed and not installed.
    """
    if isinstance(value, str) and value:
        array = read_image(value, location)
    elif isinstance(value, np.ndarray):
        array = _as_bytes(value, location)
    else:
        raise DataError(f"{location}: not an image (a path or an array), found {value!r}", "not_an_image")
    if channels == 1 and array.shape[-1] == 3:
        array = np.rint(array @ _LUMA).astype(np.uint8)[..., None]
    elif channels == 3 and array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    if array.shape[:2] != (size, size):
        array = _resized(array, size)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _as_bytes(array: np.ndarray, location: str) -> np.ndarray:
    """uint8 `(height, width, channels)`."""
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or not array.size:
        problem = f"must have the shape (height, width) or (height, width, 1 or 3), found {array.shape}"
        raise DataError(f"{location}: an image {problem}", "not_an_image")
    if array.dtype == np.uint8:
        return array
    whole = array.dtype.kind in "iub"
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= (255 if whole else 1)):
        rule = "whole numbers from 0 to 255, or other numbers from 0 to 1"
        problem = f"an image holds {rule}; found {array.dtype} from {low:g} to {high:g}"
        raise DataError(f"{location}: {problem}", "pixel_range")
    return array.astype(np.uint8) if whole else np.rint(array * 255).astype(np.uint8)


def _resized(array: np.ndarray, size: int) -> np.ndarray:
    image_module = import_extra("PIL.Image", "images", "resizing images")
    image = image_module.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    resized = np.asarray(image.resize((size, size), image_module.Resampling.BILINEAR))
    return resized.reshape(size, size, -1)


# --- Changes at random ---


def flipped(pixels: np.ndarray, key: np.random.Generator) -> np.ndarray:
    """Left and right exchanged, or not, with equal chances; `(channels, height, width)`."""
    return pixels[:, :, ::-1] if key.random() < 0.5 else pixels


def cropped(pixels: np.ndarray, least: float, key: np.random.Generator) -> np.ndarray:
    """A random part, brought back to the size of the whole (Szegedy et al. 2014, arXiv 1409.4842).

    Args:
      pixels: uint8 `(channels, height, width)`.
      least: smallest share of the area; the share is uniform from there to 1, the ratio of the sides from 3/4 to 4/3.
      key: random generator.
    """
    share, ratio = key.uniform(least, 1.0), math.exp(key.uniform(math.log(3 / 4), math.log(4 / 3)))
    tall, wide = min(1.0, math.sqrt(share / ratio)), min(1.0, math.sqrt(share * ratio))
    top, left = key.uniform(0, 1 - tall), key.uniform(0, 1 - wide)
    return np.rint(_sampled(_sampled(pixels, 1, top, tall), 2, left, wide)).astype(np.uint8)


def _sampled(pixels: np.ndarray, axis: int, start: float, part: float) -> np.ndarray:
    """A part of an axis, spread linearly over its whole length."""
    count = pixels.shape[axis]
    places = np.clip((start + part * (np.arange(count) + 0.5) / count) * count - 0.5, 0, count - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, count - 1)
    shape = [1, 1, 1]
    shape[axis] = count
    weight = (places - low).reshape(shape)
    return pixels.take(low, axis) * (1 - weight) + pixels.take(high, axis) * weight


def erased(pixels: np.ndarray, chance: float, fill: np.ndarray, key: np.random.Generator) -> np.ndarray:
    """With this chance, a random rectangle of 2 to 33% of the area is filled (Zhong et al. 2017, arXiv 1708.04896).

    Args:
      pixels: uint8 `(channels, height, width)`.
      chance: of erasing.
      fill: uint8 `(channels,)`.
      key: random generator.
    """
    if key.random() >= chance:
        return pixels
    height, width = pixels.shape[1:]
    share, ratio = key.uniform(0.02, 1 / 3), math.exp(key.uniform(math.log(0.3), math.log(1 / 0.3)))
    tall = min(height, max(1, round(height * math.sqrt(share / ratio))))
    wide = min(width, max(1, round(width * math.sqrt(share * ratio))))
    top, left = key.integers(height - tall + 1), key.integers(width - wide + 1)
    out = pixels.copy()
    out[:, top : top + tall, left : left + wide] = fill[:, None, None]
    return out
