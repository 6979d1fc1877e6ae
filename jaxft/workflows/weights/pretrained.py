"""Weights that a run starts from: a checkpoint of jaxft's own, or a directory in Hugging Face layout."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from jaxft.checkpoint.checkpoints import described_arrays
from jaxft.errors import CheckpointError
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.description import Description
from jaxft.huggingface.importing import load_parameters
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import abstract_parameters, flat_paths
from jaxft.workflows.weights.location import ModelLocation

_logger = logging.getLogger("jaxft")


class Pretrained(Protocol):
    """Weights to start from.

    Attributes:
      config: the model.
      heads: those that come with it, by name.
      tokenizer_directory: its tokenizer.
      huggingface: keys of the config.json that it once came with; None for a model made here.
      settings: directory of the settings that travel with it, such as those of generation.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def heads(self) -> Mapping[str, HeadConfig]: ...

    @property
    def tokenizer_directory(self) -> pathlib.Path: ...

    @property
    def huggingface(self) -> HuggingFaceConfig | None: ...

    @property
    def settings(self) -> pathlib.Path: ...

    def parameters(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """Its arrays under the names that `target` has, in the layout of `target`.

        The whole trunk must be there. A head that only one of the two has is fresh or left out, which is logged.

        Args:
          target: nested dict of ShapeDtypeStruct with shardings.

        Raises:
          CheckpointError: a part of the trunk is missing or of another shape.
        """
        ...


@dataclasses.dataclass(frozen=True)
class CheckpointWeights:
    """A checkpoint of jaxft's own, of a run or an imported model."""

    location: ModelLocation

    @property
    def config(self) -> ModelConfig:
        """As the run remembers it."""
        return self.location.stored.config

    @property
    def heads(self) -> Mapping[str, HeadConfig]:
        """All that the run has."""
        return self.location.stored.heads

    @property
    def tokenizer_directory(self) -> pathlib.Path:
        """The run's own."""
        return self.location.tokenizer

    @property
    def huggingface(self) -> HuggingFaceConfig | None:
        """As the run remembers it."""
        return self.location.stored.huggingface

    @property
    def settings(self) -> pathlib.Path:
        """As the run remembers them."""
        return self.location.settings

    def parameters(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """See `Pretrained`."""
        run, step = self.location.need_run(), self.location.step
        arrays = run.checkpoints.progress(step)["arrays"]["parameters"]
        held = {name.split("/")[0] for name in arrays}
        shared = _shared(target, held, str(run.path))
        rest = {name: described for name, described in arrays.items() if name.split("/")[0] not in shared}
        restored, _ = run.checkpoints.restore(step, shared | described_arrays(rest))
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

    def parameters(self, target: Mapping[str, Any]) -> dict[str, Any]:
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
