"""Weights that a run starts from: an earlier run, an imported model, or a directory in Hugging Face layout."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxft.checkpoint.checkpoints import described_arrays
from jaxft.errors import CheckpointError
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.description import Description, describe
from jaxft.huggingface.exporting import SHARD_BYTES
from jaxft.huggingface.expressing import form_for
from jaxft.huggingface.importing import load_parameters
from jaxft.huggingface.loaded import LoadedModel, load_model, save_model, tokenizer_of
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters, flat_paths, sharded_target
from jaxft.parallel.mesh import MeshConfig
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.adapters import AdaptedWeights, with_adapter

_logger = logging.getLogger("jaxft")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What a model needs; pickled weights are not fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


class Pretrained(Protocol):
    """Weights to start from.

    Attributes:
      config: the model.
      heads: those that come with it, by name.
      tokenizer_directory: its tokenizer.
      huggingface: keys of the config.json that it once came with; None for a model made here.
      settings: directory of the settings that travel with it, such as those of generation.
    """

    config: ModelConfig
    heads: Mapping[str, HeadConfig]
    tokenizer_directory: pathlib.Path
    huggingface: HuggingFaceConfig | None
    settings: pathlib.Path

    def parameters(self, target) -> dict[str, Any]:
        """Its arrays under the names that `target` has, in the layout of `target`.

        The whole trunk must be there. A head that only one of the two has is fresh or left out, which is logged.

        Args:
          target: nested dict of ShapeDtypeStruct with shardings.

        Raises:
          CheckpointError: a part of the trunk is missing or of another shape.
        """


@dataclasses.dataclass(frozen=True)
class CheckpointWeights:
    """A checkpoint of jaxft's own."""

    run: RunDirectory
    step: int
    config: ModelConfig
    heads: Mapping[str, HeadConfig]

    @property
    def tokenizer_directory(self) -> pathlib.Path:
        """The run's own."""
        return self.run.tokenizer

    @property
    def huggingface(self) -> HuggingFaceConfig | None:
        """As the run remembers it."""
        return self.run.huggingface()

    @property
    def settings(self) -> pathlib.Path:
        """As the run remembers them."""
        return self.run.settings

    def parameters(self, target) -> dict[str, Any]:
        """See `Pretrained`."""
        arrays = self.run.checkpoints.progress(self.step)["arrays"]["parameters"]
        held = {name.split("/")[0] for name in arrays}
        shared = _shared(target, held, str(self.run.path))
        rest = {name: described for name, described in arrays.items() if name.split("/")[0] not in shared}
        restored, _ = self.run.checkpoints.restore(self.step, shared | described_arrays(rest))
        return {name: restored[name] for name in shared}


@dataclasses.dataclass(frozen=True)
class HuggingFaceWeights:
    """A directory in Hugging Face layout."""

    description: Description

    @property
    def config(self) -> ModelConfig:
        """In our terms."""
        return self.description.model

    @property
    def heads(self) -> Mapping[str, HeadConfig]:
        """Those that the files hold."""
        return dict(self.description.head_configs)

    @property
    def tokenizer_directory(self) -> pathlib.Path:
        """The directory itself."""
        return self.description.directory

    @property
    def huggingface(self) -> HuggingFaceConfig:
        """Its config.json."""
        return self.description.config

    @property
    def settings(self) -> pathlib.Path:
        """The directory itself."""
        return self.description.directory

    def parameters(self, target) -> dict[str, Any]:
        """See `Pretrained`."""
        own = self.description.make_model()
        held = {"trunk", *(f"head_{name}" for name, _ in own.heads)}
        shared = _shared(target, held, str(self.description.directory))
        shapes = {path: leaf.shape for path, leaf in flat_paths(abstract_parameters(own)[0]).items()}
        for path, leaf in flat_paths(shared).items():
            if shapes.get(path) != leaf.shape:
                found = "is not there" if path not in shapes else f"has shape {list(shapes[path])}"
                raise CheckpointError(
                    f"{self.description.directory}: {path} {found}, the model asks for {list(leaf.shape)}"
                )
        return load_parameters(self.description, shared)


def _shared(target: Mapping[str, Any], held: set[str], where: str) -> dict[str, Any]:
    shared = {name: tree for name, tree in target.items() if name == "trunk" or name in held}
    if fresh := [name for name in target if name not in shared]:
        _logger.info("%s has no %s: starts fresh", where, ", ".join(fresh))
    return shared


def open_pretrained(path: str, adapter: str | None = None) -> Pretrained:
    """What `model.pretrained` names: a run or one of its checkpoints, an imported model, a directory in Hugging
    Face layout, or the id of one on the hub.

    Args:
      path: see above.
      adapter: directory of a low-rank update in PEFT's format, which is merged into it.

    Raises:
      CheckpointError: it is none of these, or it is damaged.
    """
    if adapter is not None:
        return with_adapter(open_pretrained(path), adapter)
    directory = resolve(path)
    if (directory / "config.json").is_file():
        description = describe(directory)
        tokenizer_of(description)  # refuses one that does not fit
        return HuggingFaceWeights(description)
    run, step = RunDirectory(directory), None
    if directory.parent.name == "checkpoints" and directory.name.isdigit():
        run, step = RunDirectory(directory.parent.parent), int(directory.name)
        run.checkpoints.verify(step)
    config, heads = run.model()
    return CheckpointWeights(run, run.used_step() if step is None else step, config, heads)


def resolve(path: str | pathlib.Path) -> pathlib.Path:
    """A directory as it is, or that of a model that the hub has under this id.

    Raises:
      CheckpointError: it looks like an id, but the hub does not give it.
    """
    name = str(path)
    if pathlib.Path(path).exists() or not _HUB_ID.fullmatch(name):
        return pathlib.Path(path)
    import huggingface_hub

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the library raises many kinds, of the network and of its own
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{name} is no directory here, and the hub does not give it: {reason}") from error


def load_pretrained(
    path: str | pathlib.Path,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | MeshConfig | None = None,
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
    if adapter is not None:
        base = open_pretrained(str(path), str(adapter))
        return _adapted(load_pretrained(path, dtype, mesh), base, dtype, mesh)
    directory = resolve(path)
    if not (directory / "config.json").is_file() and (directory / "model.json").is_file():
        from jaxft.workflows.weights.export import loaded_checkpoint

        return loaded_checkpoint(directory, dtype, mesh)
    return load_model(directory, dtype, mesh)


def _adapted(loaded: LoadedModel, base: AdaptedWeights, dtype: str, mesh) -> LoadedModel:
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
    labels = {"id2label": {str(i): str(i) for i in range(config.num_labels)}} if config.num_labels else {}
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
