"""Images are normalized as the weights expect them that a run starts from."""

from __future__ import annotations

import dataclasses
import pathlib

from jaxft.huggingface.image_preprocessing import read_preprocessing
from jaxft.objectives.image_classification import ImageClassificationConfig
from jaxft.objectives.registry import ObjectiveConfig
from jaxft.recipe.schema import Recipe


def with_preprocessing(recipe: Recipe, settings: pathlib.Path | None) -> Recipe:
    """Fills in the mean and deviation of images where the recipe leaves them out.

    Args:
      recipe: the recipe.
      settings: directory of what came with the pretrained weights; None where there are none.

    Raises:
      CheckpointError: preprocessor_config.json is damaged, or asks for what is not supported.
    """
    found = None if settings is None else read_preprocessing(settings)

    def filled(config: ObjectiveConfig | None) -> ObjectiveConfig | None:
        if not isinstance(config, ImageClassificationConfig) or config.mean is not None or found is None:
            return config
        return dataclasses.replace(config, mean=found[0], deviation=found[1])

    streams = {name: dataclasses.replace(one, objective=filled(one.objective)) for name, one in recipe.streams.items()}
    evaluation = {
        name: dataclasses.replace(one, objective=filled(one.objective)) for name, one in recipe.evaluation.items()
    }
    return dataclasses.replace(recipe, streams=streams, evaluation=evaluation)
