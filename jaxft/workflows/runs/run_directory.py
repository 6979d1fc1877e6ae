"""The directory of a run: its files, its lock, and the identity that a resume must match."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import pathlib
import platform
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxft.checkpoint.checkpoints import Checkpoints
from jaxft.errors import CheckpointError, RecipeError
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.exporting import copy_settings
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.parallel.platform import usable_cores
from jaxft.parallel.processes import from_first, gathered, is_first, member_names, process_count
from jaxft.recipe.decoding import decode, encode
from jaxft.recipe.library import load_recipe, recipe_to_text
from jaxft.recipe.plugins import check_plugins_unchanged, plugin_digests
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.reporting.atomic import write_atomically
from jaxft.workflows.runs.identity import identity_changes
from jaxft.workflows.runs.software import versions


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """What the parameters of a checkpoint belong to.

    Attributes:
      config: the trunk.
      heads: by name.
      huggingface: the config.json that the model once came with; None for a model made here.
    """

    config: ModelConfig
    heads: Mapping[str, HeadConfig]
    huggingface: HuggingFaceConfig | None


class RunDirectory:
    """Paths and small files of one run.

    Attributes:
      path: the directory.
      checkpoints: its checkpoints.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    @property
    def metrics(self) -> pathlib.Path:
        """`metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> pathlib.Path:
        """Directory of the run's tokenizer."""
        return self.path / "tokenizer"

    @property
    def settings(self) -> pathlib.Path:
        """Directory of the settings that came with weights from Hugging Face."""
        return self.path / "huggingface"

    @property
    def plots(self) -> pathlib.Path:
        """Directory of the run's pictures."""
        return self.path / "plots"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and holds it against any other run that would write; of its processes, the first does.

        Raises:
          RecipeError: it cannot be written, another process writes it, or not all processes of this run see it.
        """
        if not is_first():
            self._check_seen(gathered(None)[0])
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RecipeError(
                f"run directory {self.path} cannot be written: {error.strerror}; choose another with --run-dir"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RecipeError(f"run directory {self.path}: another process is writing this run") from None
            if process_count() > 1:
                mark = uuid.uuid4().hex
                lock.write(mark)
                lock.flush()
                self._check_seen(gathered(mark)[0])
            yield

    def _check_seen(self, mark: str) -> None:
        """Whether all processes see what the first has written; some file systems show it a little later."""
        seen = False
        for _ in range(20):
            with contextlib.suppress(OSError):
                seen = (self.path / ".lock").read_text() == mark
            if seen:
                break
            time.sleep(0.25)
        blind = [name for name, sees in zip(member_names(), gathered(seen), strict=True) if not sees]
        if blind:
            raise RecipeError(
                f"run directory {self.path} must lie on storage that all processes share, but "
                f"{', '.join(blind)} cannot see it; choose another with --run-dir"
            )

    def summary(self) -> dict[str, Any] | None:
        """What a finished run wrote last, or None."""
        return from_first(lambda: self._read("summary.json"))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished."""
        self._write("summary.json", summary)

    def write_environment(self, plugins: Mapping[str, str]) -> None:
        """Versions, devices and command of this start.

        Args:
          plugins: digests of the code that the recipe brings, by name.
        """
        self._write(
            "environment.json",
            {
                "jaxft": importlib.metadata.version("jaxft"),
                "python": platform.python_version(),
                "packages": versions(),
                "plugins": dict(plugins),
                "platform": platform.platform(),
                "cpus": usable_cores(),
                "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
                "command": sys.argv,
            },
        )

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Compares what this run computes with what its directory was made for; the first start writes it down.

        Args:
          identity: see `jaxft.workflows.runs.identity.identity_of`.

        Raises:
          RecipeError: they differ; all differing keys are named.
        """
        old = self._read("identity.json")
        if old is None:
            self._write("identity.json", identity)
            return
        check_plugins_unchanged(old.get("plugins", {}), identity["plugins"], str(self.path))
        changes = identity_changes(old, identity)
        if changes:
            raise RecipeError(
                f"{self.path} belongs to another recipe or other data. What differs:\n  "
                + "\n  ".join(changes)
                + "\nStart this one in another directory with --run-dir, or under another name"
            )

    def write_recipe(self, recipe: Recipe) -> None:
        """Writes the resolved recipe."""
        write_atomically(self.path / "recipe.yaml", recipe_to_text(recipe).encode())

    def write_model(
        self,
        config: ModelConfig,
        heads: Mapping[str, HeadConfig],
        huggingface: HuggingFaceConfig | None,
        settings: pathlib.Path | None,
    ) -> None:
        """Writes what the parameters belong to, and what is needed to go back to where they came from.

        Args:
          config: the model.
          heads: by name.
          huggingface: config.json that it came with.
          settings: directory with further files that came with it.
        """
        if settings is not None:
            copy_settings(settings, self.settings)
        encoded = {name: encode(head) for name, head in heads.items()}
        origin = None if huggingface is None else huggingface.values
        self._write("model.json", {"model": encode(config), "heads": encoded, "huggingface": origin})

    def has_model(self) -> bool:
        """Whether a model was written here."""
        return (self.path / "model.json").is_file()

    def model(self) -> StoredModel:
        """What `model.json` says.

        Raises:
          CheckpointError: there is no model here, or the file is damaged.
        """
        found = self._read("model.json")
        if found is None:
            problem = "it does not exist" if not self.path.exists() else "it has neither model.json nor config.json"
            raise CheckpointError(f"{self.path} holds no model: {problem}")
        where = str(self.path / "model.json")
        heads = {name: decode(Document(where, head, {}), HeadConfig) for name, head in found["heads"].items()}
        origin = found.get("huggingface")
        return StoredModel(
            decode(Document(where, found["model"], {}), ModelConfig),
            heads,
            None if origin is None else HuggingFaceConfig(origin, where),
        )

    @property
    def has_recipe(self) -> bool:
        """Whether a run was started here, rather than a model imported."""
        return (self.path / "recipe.yaml").is_file()

    def recipe(self, overrides: Sequence[str] = ()) -> tuple[Recipe, Document]:
        """The resolved recipe of the run that was started here.

        Args:
          overrides: like `evaluation.reviews.source={jsonl: test.jsonl}`.

        Raises:
          CheckpointError: this is not a run directory.
          RecipeError: an override is wrong, or a plug-in is not what it was when the run began.
        """
        if not self.has_recipe:
            found = "it does not exist" if not self.path.exists() else "it has no recipe.yaml"
            raise CheckpointError(f"{self.path} is not the directory of a run: {found}")
        # The directory may come from elsewhere: what lies in it is data.
        recipe, document = load_recipe(self.path / "recipe.yaml", overrides, never_from=[self.path])
        began = (self._read("identity.json") or {}).get("plugins", {})
        now = {name: digest for name, digest in plugin_digests(recipe).items() if name in began}
        check_plugins_unchanged(began, now, str(self.path))
        return recipe, document

    def used_step(self) -> int:
        """The step that a finished or stopped run is used at: its best where it has one, else its last.

        Raises:
          CheckpointError: no checkpoint is whole.
        """
        return from_first(self._used_step)

    def _used_step(self) -> int:
        best = self._read("best.json")
        if best is not None:
            self.checkpoints.verify(best["step"])
            return best["step"]
        step = self.checkpoints.find_newest_good()
        if step is None:
            raise CheckpointError(f"{self.path} has no checkpoint yet")
        return step

    def chosen_step(self, step: int | None) -> int:
        """A step that the user named, verified; `used_step` where None.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged.
        """
        if step is None:
            return self.used_step()
        if step not in self.checkpoints.steps():
            there = ", ".join(map(str, self.checkpoints.steps())) or "none"
            raise CheckpointError(f"{self.path} has no checkpoint of step {step}; there are {there}")
        from_first(lambda: self.checkpoints.verify(step))
        return step

    def write_best(self, step: int, metric: str, value: float) -> None:
        """Names the best checkpoint."""
        self._write("best.json", {"step": step, "metric": metric, "value": value})

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error

    def _write(self, name: str, value: Any) -> None:
        write_atomically(self.path / name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
