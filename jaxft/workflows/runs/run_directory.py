"""The directory of a run: its files, its lock, and the identity that a resume must match."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import pathlib
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxft.checkpoint.checkpoints import Checkpoints
from jaxft.errors import CheckpointError, RecipeError
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.exporting import copy_settings, travelling_files
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.parallel.platform import usable_cores
from jaxft.parallel.processes import from_first, gathered, is_first, member_names, process_count
from jaxft.recipe.decoding import decode, encode
from jaxft.recipe.library import load_recipe, recipe_to_text
from jaxft.recipe.plugins import check_plugins_unchanged, plugin_digests
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.reporting.atomic import clear_unfinished, directory_written_whole, write_atomically
from jaxft.workflows.runs.identity import identity_changes, recipe_changes
from jaxft.workflows.runs.lock import LOCK_FILE, DirectoryLock
from jaxft.workflows.runs.model_use import ModelUse
from jaxft.workflows.runs.seal import check_seal, sealed
from jaxft.workflows.runs.software import versions

_logger = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """What the parameters of a checkpoint belong to.

    Attributes:
      config: the trunk.
      heads: by name.
      huggingface: the config.json that the model once came with; None for a model made here.
      use: how it is used; None for one that was trained elsewhere, and where an earlier version wrote the file.
    """

    config: ModelConfig
    heads: Mapping[str, HeadConfig]
    huggingface: HuggingFaceConfig | None
    use: ModelUse | None = None


class RunDirectory:
    """Paths and small files of one run.

    Attributes:
      path: the directory.
      checkpoints: its checkpoints.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self._contents: dict[str, bytes] = {}
        self._lock: DirectoryLock | None = None
        self.checkpoints = Checkpoints(self.path / "checkpoints", self._beside_checkpoints)

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
            self._lock = DirectoryLock(self.path)
        except OSError as error:
            raise RecipeError(
                f"run directory {self.path} cannot be written: {error.strerror}; choose another with --run-dir"
            ) from error
        with self._lock:
            self._clear_leftovers()
            if process_count() > 1:
                mark = uuid.uuid4().hex
                self._lock.write(mark)
                self._check_seen(gathered(mark)[0])
            yield

    def check_held(self) -> None:
        """Whether the directory that `locked` holds is still held, to be called before something is written.

        Raises:
          JaxftError: somebody removed its lock file or the directory, and another process may write there.
        """
        if self._lock is not None:
            self._lock.check_held()

    def _clear_leftovers(self) -> None:
        """Removes what a killed start left: files that it had not finished, and a beginning that it had not."""
        clear_unfinished(self.path)
        self.checkpoints.clear_leftovers()
        if not self.has_model() and not self.checkpoints.steps():
            # `model.json` comes last: what was to go with it may be half of it, and nothing was trained on it.
            for directory in (self.tokenizer, self.settings):
                shutil.rmtree(directory, ignore_errors=True)

    def _check_seen(self, mark: str) -> None:
        """Whether all processes see what the first has written; some file systems show it a little later."""
        seen = False
        for _ in range(20):
            with contextlib.suppress(OSError):
                seen = (self.path / LOCK_FILE).read_text() == mark
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
        use: ModelUse | None = None,
    ) -> None:
        """Writes what the parameters belong to, and what is needed to use them and to go back to where they came from.

        Args:
          config: the model.
          heads: by name.
          huggingface: config.json that it came with.
          settings: directory with further files that came with it.
          use: how it is used; None for one that was trained elsewhere.
        """
        if settings is not None and travelling_files(settings):
            with directory_written_whole(self.settings) as directory:
                copy_settings(settings, directory)
        encoded = {name: encode(head) for name, head in heads.items()}
        origin = None if huggingface is None else huggingface.values
        described = {"model": encode(config), "heads": encoded, "huggingface": origin}
        described |= {} if use is None else {"use": encode(use)}
        self._write("model.json", sealed(described, self.path, (self.tokenizer.name, self.settings.name)))

    def has_model(self) -> bool:
        """Whether a model was written here."""
        return (self.path / "model.json").is_file()

    def model(self) -> StoredModel:
        """What `model.json` says.

        Raises:
          CheckpointError: there is no model here, or its file, the tokenizer or the settings are damaged.
        """
        found = self._read("model.json")
        if found is None:
            problem = "it does not exist" if not self.path.exists() else "it has neither model.json nor config.json"
            raise CheckpointError(f"{self.path} holds no model: {problem}")
        check_seal(found, self.path / "model.json")
        where = str(self.path / "model.json")
        heads = {name: decode(Document(where, head, {}), HeadConfig) for name, head in found["heads"].items()}
        origin = found.get("huggingface")
        return StoredModel(
            decode(Document(where, found["model"], {}), ModelConfig),
            heads,
            None if origin is None else HuggingFaceConfig(origin, where),
            None if found.get("use") is None else decode(Document(where, found["use"], {}), ModelUse),
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
        where = self.path / "recipe.yaml"
        recipe, document = load_recipe(where, overrides, never_from=[self.path])
        identity = self._read("identity.json") or {}
        began = identity.get("plugins", {})
        now = {name: digest for name, digest in plugin_digests(recipe).items() if name in began}
        check_plugins_unchanged(began, now, str(self.path))
        if changes := recipe_changes(identity.get("recipe", {}), recipe, overrides):
            _logger.warning("%s is not the recipe that the run began with: %s", where, "; ".join(changes))
        return recipe, document

    def used_step(self) -> int:
        """The step that a finished or stopped run is used at: its best where it has one, else its last.

        Which is the best, the newest checkpoint knows. `best.json` repeats it for whoever looks; only a run of an
        earlier version has it there alone.

        Raises:
          CheckpointError: no checkpoint is whole, or the best one is not.
        """
        newest = self.checkpoints.newest_good()
        if newest is None:
            raise CheckpointError(f"{self.path} has no checkpoint yet")
        progress = self.checkpoints.progress(newest)
        best = progress["best"] if "best" in progress else self._read("best.json")
        if best is None or best["step"] == newest:
            return newest
        from_first(lambda: self.checkpoints.verify(best["step"]))
        return best["step"]

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

    def write_best(self, best: Mapping[str, Any]) -> None:
        """Names the best checkpoint: its `step`, the `metric` and its `value`."""
        self._write("best.json", best)

    def _beside_checkpoints(self) -> dict[str, bytes | None]:
        """The files without which a checkpoint means something else."""
        return {name: self._content(name) for name in ("model.json", "identity.json")}

    def _content(self, name: str) -> bytes | None:
        """Of a small file, as it was read first."""
        if name not in self._contents:
            try:
                self._contents[name] = (self.path / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return self._contents[name]

    def _read(self, name: str) -> Any:
        content = self._content(name)
        try:
            return None if content is None else json.loads(content)
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error

    def _write(self, name: str, value: Any) -> None:
        self._contents[name] = (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
        write_atomically(self.path / name, self._contents[name])
