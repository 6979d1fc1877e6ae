"""What a run is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from jaxft.data.tokenizers import Tokenizer
from jaxft.finetuning.adapters import AdapterModel
from jaxft.models.model import AnyModel
from jaxft.objectives.instruction import Conversation
from jaxft.objectives.objective import Objective
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.weights.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
      recipe: resolved: labels found, model fields filled in, the data's directory absolute.
      document: where the user wrote each key.
      tokenizer: of all streams.
      model: trunk with the heads of all objectives, and with adapters where the recipe has them.
      objectives: by stream, and by evaluation where that has one of its own.
      mesh: devices.
      pretrained: where the weights come from, or None.
      source_fingerprints: by `streams.NAME` and `evaluation.NAME`.
    """

    recipe: Recipe
    document: Document
    tokenizer: Tokenizer
    model: AnyModel
    objectives: Mapping[str, Objective]
    mesh: jax.sharding.Mesh
    pretrained: Pretrained | None
    source_fingerprints: Mapping[str, str]

    @property
    def plain_model(self) -> AnyModel:
        """The model without adapters, as pretrained weights have it."""
        return self.model.base if isinstance(self.model, AdapterModel) else self.model

    @property
    def chat_template(self) -> str | None:
        """The template, in Jinja, of the first stream of conversations; None where no stream has any."""
        objectives = (self.objectives[name] for name in self.recipe.streams)
        return next((one.form.jinja for one in objectives if isinstance(one, Conversation)), None)

    def evaluated_objective(self, evaluation: str) -> Objective:
        """What an evaluation measures by: the objective of its stream, or its own."""
        return self.objectives[self.recipe.objective_of(evaluation)]
