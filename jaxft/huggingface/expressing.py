"""Which architecture and class of Hugging Face express a model with its head."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures import architecture_of, architectures
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.description import Description
from jaxft.huggingface.generation_settings import GenerationSettings
from jaxft.huggingface.placing import Placed, ShapesByPath, place_all
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig

# Fields that change training alone: a class that has no key for them expresses the model all the same.
_OF_TRAINING = ("dropout", "attention_dropout", "initializer_range")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a model is written.

    Attributes:
      config: keys and values of config.json.
      placed: tensors by our names.
      names: as they are written, by our names; ours where they are not there.
      dtypes: as they are written, by our names; `float32` where they are not there.
      directory: of the model that this one comes from, whose settings travel along; None for a model made here.
      generation_settings: how it writes; None for a model that does not, or does as those settings say.
    """

    config: Mapping[str, Any]
    placed: Mapping[str, Placed]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict)
    directory: pathlib.Path | None = None
    generation_settings: GenerationSettings | None = None


def form_of(description: Description) -> Form:
    """Back as it came."""
    dtypes = {name: stored.dtype for name, stored in description.stored.items()}
    config = dict(description.config.values)
    if not description.model.tied_embeddings and config.get("tie_word_embeddings", True):
        config["tie_word_embeddings"] = False
        if description.model.logit_scale != 1.0:
            config["scale_decoder_outputs"] = True
    return Form(config, description.placed, description.names, dtypes, description.directory)


def form_for(
    model: ModelConfig,
    head: tuple[str, HeadConfig] | None,
    origin: HuggingFaceConfig | None,
    extra: Mapping[str, Any],
    shapes: ShapesByPath,
) -> Form:
    """The architecture and class that express a model with one of its heads.

    Args:
      model: the model.
      head: name and shape of the head; None for the trunk alone.
      origin: config.json that the model came with, whose architecture it then keeps; None for a model made here.
      extra: further keys of config.json, such as the labels.
      shapes: of all parameters, by path.

    Raises:
      CheckpointError: no architecture expresses the model, or none of its classes the head.
    """
    problems = []
    for architecture in architectures() if origin is None else (architecture_of(origin),):
        values = _values(architecture, model, origin) | dict(extra)
        differing = _difference(architecture, values, model)
        found = None if differing else _class_for(architecture, values, head)
        if found is not None:
            values |= {"architectures": [found[0]]} | found[2]
            prefix = "" if head is None or head[1].kind == "pooled" else architecture.prefix
            placed = place_all(architecture, model, found[1], prefix, shapes)
            return Form(values, {tensor.name: tensor for tensor in placed})
        lacking = "the trunk alone" if head is None else _described(head)
        problem = f"has another {', '.join(differing)}" if differing else f"has no class with {lacking}"
        problems.append((len(differing), f"{architecture.model_types[0]} {problem}"))
    nearest = "; ".join(problem for _, problem in sorted(problems)[:3])
    raise CheckpointError(f"no Hugging Face architecture expresses this model; the nearest: {nearest}")


def _described(head: tuple[str, HeadConfig]) -> str:
    shape = head[1]
    hidden = "no hidden layer" if shape.transform == "none" else f"a hidden layer ({shape.transform})"
    return f"a {shape.kind} head with pooling {shape.pooling} and {hidden}"


def expressing(
    model: ModelConfig, origin: HuggingFaceConfig | None = None
) -> Iterator[tuple[Architecture, dict[str, Any]]]:
    """The architectures that express a trunk, each with its keys of config.json, the usual ones first.

    Args:
      model: the trunk.
      origin: config.json that it came with, whose architecture alone is tried; None for a model made here.
    """
    for architecture in architectures() if origin is None else (architecture_of(origin),):
        values = _values(architecture, model, origin)
        if not _difference(architecture, values, model):
            yield architecture, values


def natural_head(name: str, asked: HeadConfig, model: ModelConfig, origin: HuggingFaceConfig | None) -> HeadConfig:
    """A fresh head in the shape that Hugging Face gives such a model, so that it can be exported.

    Args:
      name: of the head; where Hugging Face has one of that name, it is the one.
      asked: its kind, labels, dropout and, unless the architecture decides, pooling.
      model: the trunk.
      origin: config.json that the trunk came with; None for a model made here.

    Returns:
      `asked` with the details of the architecture's head of this kind; where there is none, as it is, with the first
      token of an encoder and the last one of a decoder.
    """
    for architecture, values in expressing(model, origin):
        heads = {head.name: head for heads in architecture.classes.values() for head in (*heads, *architecture.also)}
        head = heads.get(name, heads.get(asked.kind))
        if head is None:
            continue
        shape = head.config_of(HuggingFaceConfig({**values, **head.keys(asked)}, "config.json"))
        if shape.kind == asked.kind and shape.pooling == (asked.pooling or shape.pooling):
            return dataclasses.replace(shape, num_labels=asked.num_labels, dropout=asked.dropout)
    return dataclasses.replace(asked, pooling=asked.pooling or ("last" if "decoder" in model.family else "first"))


def _values(architecture: Architecture, model: ModelConfig, origin: HuggingFaceConfig | None) -> dict[str, Any]:
    """Keys of config.json; those that the model came with, but for what was changed since."""
    if origin is None:
        return architecture.config_values(model.resolved())
    before = architecture.model_config(origin)
    changed = {
        key.name: key.write(getattr(model, field))
        for field, key in architecture.keys.items()
        if getattr(before, field) != getattr(model, field)
    }
    return dict(origin.values) | changed


def _difference(architecture: Architecture, values: Mapping[str, Any], model: ModelConfig) -> list[str]:
    """In which fields the architecture's reading of the values differs from the model; all where it refuses them."""
    ignored: tuple[str, ...] = _OF_TRAINING
    if model.position == "transformer_xl":  # whose configs know no longest sequence
        ignored = (*ignored, "max_length")
    names = [field.name for field in dataclasses.fields(model) if field.name not in ignored]
    try:
        read = architecture.model_config(HuggingFaceConfig(values, "config.json")).resolved()
    except CheckpointError:
        return names
    model = model.resolved()
    return [name for name in names if getattr(read, name) != getattr(model, name)]


def _class_for(
    architecture: Architecture, values: Mapping[str, Any], head: tuple[str, HeadConfig] | None
) -> tuple[str, tuple[Head, ...], dict[str, Any]] | None:
    """A class with this head alone, the head under the name that our parameters have, and its keys of config.json."""
    found = []
    for name, declared in architecture.classes.items():
        own = [one for one in declared if one.name != "pooled" or (head is not None and head[1].kind == "pooled")]
        if head is None and not own:
            return name, (), {}
        if head is not None and len(own) == 1:
            keys = own[0].keys(head[1])
            shape = own[0].config_of(HuggingFaceConfig({**values, **keys}, "config.json"))
            if dataclasses.replace(shape, dropout=0.0) == dataclasses.replace(head[1], dropout=0.0):
                renamed = dataclasses.replace(own[0], name=head[0])
                found.append((own[0].name != head[1].kind, name, (renamed,), keys))
    # Several classes may have a head of this shape: the one whose purpose it is comes first.
    return min(found, key=lambda entry: entry[0])[1:] if found else None
