"""Images are normalized as the weights expect them that a run starts from."""

from __future__ import annotations

import dataclasses
import pathlib

from jaxft.huggingface.image_preprocessing import read_preprocessing
from jaxft.objectives.config import ObjectiveConfig
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
    if found is None:
        return recipe

    def filled(config: ObjectiveConfig) -> ObjectiveConfig:
        return config.with_normalization(*found)

    streams = {name: dataclasses.replace(one, objective=filled(one.objective)) for name, one in recipe.streams.items()}
    evaluation = {
        name: one if one.objective is None else dataclasses.replace(one, objective=filled(one.objective))
        for name, one in recipe.evaluation.items()
    }
    return dataclasses.replace(recipe, streams=streams, evaluation=evaluation)
