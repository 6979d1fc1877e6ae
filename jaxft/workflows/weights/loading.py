"""Models opened by what a user names: weights to start from, and whole models to be used."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import cast

import jax
import jax.numpy as jnp

from jaxft.data.tokenizers import load_tokenizer
from jaxft.errors import CheckpointError
from jaxft.huggingface.architectures import architecture_of
from jaxft.huggingface.exporting import SHARD_BYTES
from jaxft.huggingface.expressing import Form, form_for
from jaxft.huggingface.loaded import LoadedModel, loaded_from, save_model, tokenizer_of
from jaxft.huggingface.sentence_modules import read_pooling
from jaxft.models.config import ComputeConfig, Precision
from jaxft.models.model import Model, flat_paths, sharded_target
from jaxft.parallel.mesh import MeshConfig
from jaxft.workflows.weights.adapters import AdaptedWeights, with_adapter
from jaxft.workflows.weights.labels import first_head, label_settings, objective_of
from jaxft.workflows.weights.location import ModelLocation, locate
from jaxft.workflows.weights.pretrained import CheckpointWeights, HuggingFaceWeights, Pretrained

Mesh = jax.sharding.Mesh | MeshConfig | None


def open_pretrained(source: str | pathlib.Path | ModelLocation, adapter: str | None = None) -> Pretrained:
    """Weights to start from.

    Args:
      source: a run or one of its checkpoints, an imported model, a directory in Hugging Face layout, or the id of one
        on the hub.
      adapter: directory of a low-rank update in PEFT's format, which is merged into it.

    Raises:
      CheckpointError: it is none of these, or it is damaged.
    """
    location = locate(source)
    opened: Pretrained
    if location.run is None:
        tokenizer_of(location.description)  # refuses one that does not fit
        opened = HuggingFaceWeights(location.description)
    else:
        # Whether there is such a model and checkpoint is said here, not when its arrays are read.
        assert location.stored is not None and location.step is not None
        opened = CheckpointWeights(location)
    return opened if adapter is None else with_adapter(opened, adapter)


def load_pretrained(
    path: str | pathlib.Path | ModelLocation,
    dtype: str = "float32",
    mesh: Mesh = None,
    adapter: str | pathlib.Path | None = None,
) -> LoadedModel:
    """A model with its weights, tokenizer and description.

    Args:
      path: a directory in Hugging Face layout, or the id of one on the hub; also a run or an imported model.
      dtype: `float32` or `bfloat16`, of the parameters and of the computation.
      mesh: devices to spread the parameters over.
      adapter: directory of a low-rank update in PEFT's format, which is merged into it.

    Returns:
      `.model` (Linen), `.params`, `.config`, `.tokenizer`; called with `input_ids`, `attention_mask`,
      `token_type_ids`, `decoder_input_ids` or `pixel_values` it returns `.hidden` and, where the model has a head,
      `.logits`.

    Raises:
      CheckpointError: nothing there can be loaded; the message says what and why.
    """
    location = locate(path)
    if location.run is None:
        loaded = loaded_from(location.description, dtype, mesh)
    else:
        loaded = load_checkpoint(location, dtype, mesh)
        loaded = dataclasses.replace(loaded, form=_form_of(location, loaded))
    if adapter is None:
        return loaded
    return _adapted(loaded, with_adapter(open_pretrained(location), adapter), dtype, mesh)


def load_checkpoint(location: ModelLocation, dtype: str, mesh: Mesh) -> LoadedModel:
    """A run or an imported model, but for how Hugging Face would write it.

    Raises:
      CheckpointError: there is none, it is damaged, or it has adapters that belong to no model.
    """
    stored, run = location.stored, location.need_run()
    if location.recipe is not None and location.recipe.finetuning.adapters is not None:
        raise CheckpointError(
            f"{run.path} has bottleneck adapters, which no model of Hugging Face has a place for; train with "
            "finetuning.lora in place of finetuning.adapters to merge what was learned"
        )
    if dtype not in ("float32", "bfloat16"):
        raise CheckpointError(f"dtype must be float32 or bfloat16, found {dtype!r}")
    model = Model(stored.config, tuple(stored.heads.items()), ComputeConfig(precision=cast(Precision, dtype)))
    parameters, _ = run.checkpoints.restore(location.step, sharded_target(model, "float32", mesh))
    for name in stored.heads:
        objective = objective_of(location, name)
        if objective is not None and f"head_{name}" in parameters:
            own = objective.head_in_own_units(parameters[f"head_{name}"], name)
            parameters = {**parameters, f"head_{name}": own}
    if dtype != "float32":
        parameters = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), parameters)
    has_tokenizer = location.tokenizer.is_dir() and stored.config.family != "vision"
    first = tuple(name for name, head in stored.heads.items() if head.kind != "pooled")[:1]
    origin = stored.huggingface
    return LoadedModel(
        model,
        parameters,
        stored.config,
        load_tokenizer(location.tokenizer) if has_tokenizer else None,
        None,
        first,
        pad_token_id=None if origin is None else origin.get("pad_token_id", None),
        positions_skip_padding=None if origin is None else architecture_of(origin).positions_skip_padding,
        pooling=read_pooling(location.settings),
    )


def _form_of(location: ModelLocation, loaded: LoadedModel) -> Form | None:
    """How Hugging Face writes a model with its first head; None where no architecture expresses it."""
    head = first_head(loaded)
    shapes = {name: leaf.shape for name, leaf in flat_paths(loaded.params).items()}
    try:
        form = form_for(loaded.config, head, location.stored.huggingface, label_settings(location, head), shapes)
    except CheckpointError:
        return None
    return dataclasses.replace(form, directory=location.settings)


def _adapted(loaded: LoadedModel, base: AdaptedWeights, dtype: str, mesh: Mesh) -> LoadedModel:
    """The model with what an adapter brings."""
    model = Model(base.config, tuple(base.heads.items()), loaded.model.compute)
    # Merged in float32, whatever the model is computed in.
    parameters = base.parameters(sharded_target(model, "float32", mesh))
    parameters = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), parameters)
    loaded = dataclasses.replace(loaded, model=model, params=parameters)
    if not base.saved_heads:
        return loaded
    head, config = base.saved_heads[0]
    shapes = {path: leaf.shape for path, leaf in flat_paths(parameters).items()}
    labels = {}
    if config.num_labels and (base.huggingface is None or base.huggingface.num_labels != config.num_labels):
        labels = {"id2label": {str(i): str(i) for i in range(config.num_labels)}}
    form = form_for(base.config, (head.name, config), base.huggingface, labels, shapes)
    return dataclasses.replace(loaded, heads=(head.name,), form=dataclasses.replace(form, directory=base.settings))


def save_pretrained(
    loaded: LoadedModel, path: str | pathlib.Path, dtype: str | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a model in Hugging Face layout: config.json, safetensors, tokenizer.

    Args:
      loaded: from `load_pretrained`, perhaps with other `params` (`dataclasses.replace`).
      path: a new directory.
      dtype: `float32`, `bfloat16` or `float16`; as the weights were read where None.
      shard_bytes: largest size of a file of weights.

    Raises:
      CheckpointError: the directory holds a model already.
    """
    save_model(loaded, path, dtype, shard_bytes)
