"""What a model needs to be used beside its weights: what its outputs are called, and how texts become vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxft.objectives.config import Normalization, ObjectiveConfig, ProblemType


@dataclasses.dataclass(frozen=True)
class HeadUse:
    """How the outputs of a head are read.

    Attributes:
      labels: their names; empty where they have none.
      problem_type: how transformers calls what the head learned; None where it has no name for it.
    """

    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None


@dataclasses.dataclass(frozen=True)
class ModelUse:
    """How a model is used that was trained here.

    Attributes:
      heads: by name.
      pooling: how sentence-transformers calls what makes a text's vector; None where the model was not trained to.
      length: tokens of the rows that it was trained on, of the first stream; None for the longest of the model.
      normalization: how pixels are normalized; None for a model of texts.
    """

    heads: dict[str, HeadUse] = dataclasses.field(default_factory=dict)
    pooling: str | None = None
    length: int | None = None
    normalization: Normalization | None = None


def use_of(objectives: Mapping[str, ObjectiveConfig]) -> ModelUse:
    """How a model is used that was trained by these objectives, by stream, the most telling first."""
    first = next(iter(objectives.values()))
    pixels = [own for config in objectives.values() if (own := config.normalization()) is not None]
    return ModelUse(
        {name: HeadUse(config.label_names(), config.problem_type) for name, config in objectives.items()},
        first.sentence_pooling(),
        first.length,
        pixels[0] if pixels else None,
    )
