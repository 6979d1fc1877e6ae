"""Which model a user's path means: the one place that interprets it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import re

from jaxft.errors import CheckpointError
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.description import Description, describe
from jaxft.recipe.schema import Recipe
from jaxft.workflows.runs.model_use import ModelUse, use_of
from jaxft.workflows.runs.run_directory import RunDirectory, StoredModel

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What a model needs; pickled weights are not fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_WITH_STEP = re.compile(r"(?P<path>.+):(?P<step>\d+)")


@dataclasses.dataclass(frozen=True)
class ModelLocation:
    """Where a model lies that a user named.

    Attributes:
      source: as the user named it.
      directory: of its files: of a model in Hugging Face layout, a run, or an imported model.
      run: the run or imported model that lies there; None for Hugging Face layout.
      named_step: the checkpoint that the user named; None where the run says which one is used.
    """

    source: str
    directory: pathlib.Path
    run: RunDirectory | None
    named_step: int | None

    @functools.cached_property
    def stored(self) -> StoredModel:
        """What the run or imported model says of its parameters.

        Raises:
          CheckpointError: there is no model here.
        """
        return self.need_run().model()

    @functools.cached_property
    def description(self) -> Description:
        """What a directory in Hugging Face layout holds.

        Raises:
          CheckpointError: it is no such directory, or of an architecture that is not known.
        """
        return describe(self.directory)

    @property
    def huggingface(self) -> HuggingFaceConfig | None:
        """The config.json of the model, or that which a run's model once came with; None for a model made here."""
        return self.description.config if self.run is None else self.stored.huggingface

    @functools.cached_property
    def recipe(self) -> Recipe | None:
        """What the run was trained by; None where nothing was trained here."""
        return self.run.recipe()[0] if self.run is not None and self.run.has_recipe else None

    @functools.cached_property
    def use(self) -> ModelUse | None:
        """How the run's model is used, or one made of runs; None for a model that was trained elsewhere."""
        if self.run is None or self.stored.use is not None or self.recipe is None:
            return None if self.run is None else self.stored.use
        # A run of a version that kept this in its recipe alone.
        return use_of({name: stream.objective for name, stream in self.recipe.streams.items()})

    @functools.cached_property
    def step(self) -> int:
        """The checkpoint that is meant, verified: the one that the user named, else that which the run is used at.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged.
        """
        return self.need_run().chosen_step(self.named_step)

    @property
    def settings(self) -> pathlib.Path:
        """Directory of the settings that travel with the model, such as those of generation."""
        return self.directory if self.run is None else self.run.settings

    @property
    def tokenizer(self) -> pathlib.Path:
        """Directory of its tokenizer."""
        return self.directory if self.run is None else self.run.tokenizer

    @property
    def name(self) -> str:
        """What people call the model: its directory's name, or its id on the hub."""
        path = pathlib.Path(self.source)
        return path.resolve().name if path.exists() else self.source

    def need_run(self) -> RunDirectory:
        """The run or imported model.

        Raises:
          CheckpointError: the model lies in Hugging Face layout.
        """
        if self.run is None:
            raise CheckpointError(f"{self.directory} is a model in Hugging Face layout, not a run or an imported model")
        return self.run

    def fingerprint(self) -> str:
        """Of the weights, those of a sentence encoder's further modules too, and their description."""
        if self.run is None:
            weights = [*sorted(self.directory.glob("*.safetensors")), *sorted(self.directory.glob("*/*.safetensors"))]
            files = [*weights, self.directory / "config.json"]
        else:
            manifest = self.run.path / "checkpoints" / str(self.step) / "manifest.json"
            files = [self.run.path / "model.json", manifest]
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()


def locate(source: str | pathlib.Path | ModelLocation, step: int | None = None) -> ModelLocation:
    """What a path means: a directory in Hugging Face layout, the id of one on the hub, a run or an imported model, one
    of their `checkpoints/STEP`, or `RUN:STEP`.

    What lies there decides, never what a directory is called. That there is a model is found out when it is read.

    Args:
      source: as the user named it; a location is returned as it is.
      step: a checkpoint that the user named besides.

    Raises:
      CheckpointError: it looks like an id, but the hub does not give it.
    """
    if isinstance(source, ModelLocation):
        return source
    path, name = pathlib.Path(source), str(source)
    directory = path if path.exists() or not _HUB_ID.fullmatch(name) else _fetched(name)
    if (directory / "config.json").is_file():
        return ModelLocation(name, directory, None, None)
    return locate_run(directory, step)


def locate_run(source: str | pathlib.Path, step: int | None = None) -> ModelLocation:
    """As `locate`, for what can be a run or an imported model alone: no hub is asked.

    Args:
      source: a run or an imported model, one of their `checkpoints/STEP`, or `RUN:STEP`.
      step: a checkpoint that the user named besides.
    """
    path = pathlib.Path(source)
    match = _WITH_STEP.fullmatch(str(source))
    if match is not None and not path.exists():
        path = pathlib.Path(match["path"], "checkpoints", match["step"])
    owner = RunDirectory(path.parent.parent)
    is_step = path.parent.name == "checkpoints" and path.name.isdigit() and not RunDirectory(path).has_model()
    if is_step and owner.has_model():
        return ModelLocation(str(source), owner.path, owner, int(path.name) if step is None else step)
    return ModelLocation(str(source), path, RunDirectory(path), step)


def _fetched(name: str) -> pathlib.Path:
    """The directory of a model that the hub has under this id."""
    import huggingface_hub

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the library raises many kinds, of the network and of its own
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{name} is no directory here, and the hub does not give it: {reason}") from error
