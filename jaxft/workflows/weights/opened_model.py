"""A model ready for use, with all that its files or its run say of how it is used."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from jaxft.generation.config import SpecialTokens
from jaxft.generation.reader import Classifier, Problem
from jaxft.generation.text_layout import TextLayout
from jaxft.huggingface.loaded import LoadedModel
from jaxft.huggingface.pooling import SentencePooling
from jaxft.workflows.weights.labels import label_settings, sentence_pooling
from jaxft.workflows.weights.loading import Mesh, load_pretrained
from jaxft.workflows.weights.location import ModelLocation, locate
from jaxft.workflows.weights.special_tokens import special_tokens, text_layout


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model that was loaded, and where it lies.

    Attributes:
      location: of its files; None for one that has none, around whose texts the tokenizer's start and separator tokens
        are put.
      loaded: the model with its weights and tokenizer.
    """

    location: ModelLocation | None
    loaded: LoadedModel

    @functools.cached_property
    def special_tokens(self) -> SpecialTokens:
        """Ids with a meaning of their own where the model writes."""
        return special_tokens(self.location, self.loaded.config, self.loaded.tokenizer)

    @functools.cached_property
    def text_layout(self) -> TextLayout:
        """What stands around the texts that the model reads whole; for models with a tokenizer."""
        assert self.loaded.tokenizer is not None
        return text_layout(self.location, self.loaded.config, self.loaded.tokenizer)

    @functools.cached_property
    def classifier(self) -> Classifier | None:
        """The head for whole texts with its labels: the first one, which a model is saved as, or else any."""
        heads = dict(self.loaded.model.heads)
        named = [*self.loaded.heads, *heads]
        found = next((name for name in named if heads[name].kind == "sequence_classification"), None)
        if found is None:
            return None
        settings = {} if self.loaded.form is None else self.loaded.form.config
        if self.location is not None and self.location.run is not None:
            settings = {**settings, **label_settings(self.location, (found, heads[found]))}
        count = heads[found].num_labels
        labels = settings.get("id2label") or {}
        problem: Problem = settings.get("problem_type") or (
            "regression" if count == 1 else "single_label_classification"
        )
        # Hugging Face leaves out labels that are LABEL_0, LABEL_1, ...
        names = tuple(labels.get(str(i), labels.get(i, f"LABEL_{i}")) for i in range(count))
        return Classifier(found, names, problem)

    @functools.cached_property
    def pooling(self) -> SentencePooling | None:
        """How a text becomes a vector; None where the model makes none."""
        if self.loaded.pooling is not None:
            return self.loaded.pooling
        trained = None if self.location is None else sentence_pooling(self.location)
        if trained is None and self.loaded.config.family == "encoder":
            return SentencePooling("mean", normalize=False)
        return trained


# What a user may give where a model is asked for: see `open_model`.
ModelSource = str | pathlib.Path | ModelLocation | LoadedModel | OpenedModel


def open_model(source: ModelSource, dtype: str = "float32", mesh: Mesh = None) -> OpenedModel:
    """A model by what a user names, with its weights.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, a run or an imported model; one that
        `jaxft.load_pretrained` gave; an opened one is returned as it is.
      dtype: `float32` or `bfloat16`, of parameters and computation.
      mesh: devices to spread the parameters over.

    Raises:
      CheckpointError: nothing there can be loaded.
    """
    if isinstance(source, OpenedModel):
        return source
    if isinstance(source, LoadedModel):
        return OpenedModel(None, source)
    location = locate(source)
    return OpenedModel(location, load_pretrained(location, dtype, mesh))
