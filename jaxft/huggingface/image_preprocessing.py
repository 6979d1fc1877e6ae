"""How images are normalized before a model reads them, as preprocessor_config.json says it."""

from __future__ import annotations

import json
import pathlib

from jaxft.errors import CheckpointError
from jaxft.models.config import ModelConfig

FILE = "preprocessor_config.json"
_BILINEAR = 2


def read_preprocessing(directory: pathlib.Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of each channel, in shares of the brightest; None where the file is missing.

    Raises:
      CheckpointError: it is damaged, or asks for something else than a share of 255, less a mean, over a deviation.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        factor = float(values.get("rescale_factor", 1 / 255))
        plain = not values.get("do_normalize", True)
        mean = tuple(map(float, values.get("image_mean", [0.5] * 3)))
        deviation = tuple(map(float, values.get("image_std", [0.5] * 3)))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not values.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-3:
        raise CheckpointError(f"{path}: pixels must be rescaled by 1/255; other ways are not supported")
    if plain:
        return (0.0,) * len(mean), (1.0,) * len(deviation)
    return mean, deviation


def write_preprocessing(
    directory: pathlib.Path,
    model: ModelConfig,
    mean: tuple[float, ...] | None,
    deviation: tuple[float, ...] | None,
) -> None:
    """Writes the file from which transformers makes the pixels that the model was trained on.

    Args:
      directory: of the weights.
      model: whose images have one size.
      mean: of each channel, in shares of the brightest; 0.5 where None.
      deviation: likewise.
    """
    half = (0.5,) * model.channels
    values = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "resample": _BILINEAR,
        "size": {"height": model.image_size, "width": model.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean or half),
        "image_std": list(deviation or half),
    }
    (directory / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
