"""What the outputs of a model's heads are called, and how texts become vectors: by the objectives of its run."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.loaded import LoadedModel
from jaxft.huggingface.pooling import SentencePooling
from jaxft.models.heads import HeadConfig
from jaxft.objectives.config import ObjectiveConfig
from jaxft.workflows.weights.location import ModelLocation

_WITHOUT_LABELS = ("masked_lm", "causal_lm", "pooled", "multiple_choice", "question_answering")


def objective_of(location: ModelLocation, stream: str) -> ObjectiveConfig | None:
    """The objective of a run's stream; None where there is no such stream, or no run but weights alone."""
    recipe = location.recipe
    return recipe.streams[stream].objective if recipe is not None and stream in recipe.streams else None


def sentence_pooling(location: ModelLocation) -> SentencePooling | None:
    """How a model that was trained here to make vectors of sentences does so; None for any other."""
    mode = None if location.use is None else location.use.pooling
    return None if mode is None else SentencePooling(mode, normalize=True)


def label_settings(location: ModelLocation, head: tuple[str, HeadConfig] | None) -> dict[str, Any]:
    """`id2label`, `label2id` and `problem_type` of a classifier or a regression of a run or an imported model."""
    if head is None or head[1].kind in _WITHOUT_LABELS:
        return {}
    origin = location.stored.huggingface
    use = None if location.use is None else location.use.heads.get(head[0])
    names = [str(number) for number in range(head[1].num_labels)]
    if use is None and origin is not None and origin.num_labels == len(names):
        return {}
    problem = {}
    if head[1].kind == "sequence_classification":
        # transformers takes one output for a number, and refuses to call it a class.
        default = "single_label_classification" if len(names) > 1 else "regression"
        problem = {"problem_type": default if use is None or use.problem_type is None else use.problem_type}
    if use is not None:
        names = list(use.labels or names)
    labels = {str(i): name for i, name in enumerate(names)}
    return {"id2label": labels, "label2id": {n: i for i, n in enumerate(names)}, **problem}


def labelled_origin(location: ModelLocation, loaded: LoadedModel) -> HuggingFaceConfig | None:
    """The config.json that a run's model once came with, with the labels of the head that it now has."""
    origin, head = location.stored.huggingface, first_head(loaded)
    if origin is None or head is None:
        return origin
    return HuggingFaceConfig({**origin.values, **label_settings(location, head)}, origin.source)


def first_head(loaded: LoadedModel) -> tuple[str, HeadConfig] | None:
    """The head whose logits a call returns, by name; None for a trunk alone."""
    return next(((name, head) for name, head in loaded.model.heads if name in loaded.heads[:1]), None)
