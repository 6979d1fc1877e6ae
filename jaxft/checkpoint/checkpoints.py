"""The checkpoints of a run: written in the background, verified before use, the newest and the best kept."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxft.checkpoint.manifest import NAME, defect, write_manifest
from jaxft.errors import CheckpointError, InvalidField
from jaxft.parallel.processes import from_first, is_first, wait_for_all
from jaxft.parallel.trees import Parameters, Shapes, Tree

_logger = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept.

    Attributes:
      every: steps between checkpoints; the run's end is always saved.
      keep: how many of the newest are kept.
      best: metric of an evaluation, like `reviews.accuracy`, whose best checkpoint is kept too and used afterwards;
        None: the last one is used.
    """

    every: int = 500
    keep: int = 2
    best: str | None = None

    def __post_init__(self) -> None:
        for field in ("every", "keep"):
            if getattr(self, field) < 1:
                raise InvalidField(field, f"must be at least 1, found {getattr(self, field)}")


class Checkpoints:
    """The directory `checkpoints/` of a run, each step in `checkpoints/<step>/`.

    A step holds `parameters` and `training` (optimizer, step, seed) as Orbax wrote them, `progress` (JSON: the arrays'
    shapes and dtypes and what the run wants to remember), and the manifest, which comes last.
    """

    def __init__(self, directory: pathlib.Path, beside: Callable[[], Mapping[str, bytes | None]] = dict):
        """
        Args:
          directory: `checkpoints/` of a run.
          beside: contents of the run's files without which a checkpoint means something else, by name; None for one
            that is not there.
        """
        self.directory, self._beside = directory, beside
        self._writer: ocp.AsyncCheckpointer | None = None
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """All steps with a manifest, ascending."""
        return [step for step in self._begun() if (self.directory / str(step) / NAME).is_file()]

    def _begun(self) -> list[int]:
        """All steps, ascending; those without a manifest were not completely written."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir())

    def clear_leftovers(self) -> None:
        """Removes what a killed process left of writing and of removing; to be called by the one who writes."""
        for pattern in (".removed-*", "*.orbax-checkpoint-tmp*"):
            for path in self.directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def save(
        self,
        step: int,
        parameters: Parameters,
        training: Mapping[str, Any],
        progress: Mapping[str, Any],
        kept: set[int],
        on_complete: Callable[[], None],
    ) -> None:
        """Copies the state to the host and returns; a thread writes it.

        Args:
          step: steps done.
          parameters: tree of arrays.
          training: trees of arrays by name.
          progress: JSON values to remember.
          kept: steps that stay besides this one once it is complete.
          on_complete: called on the thread when it is complete, before others are removed.

        Raises:
          CheckpointError: an earlier checkpoint could not be written.
        """
        self.wait()
        target = self.directory / str(step)
        if is_first() and target.exists():
            # Left unfinished or damaged by an earlier process: a good one would have been resumed from.
            shutil.rmtree(target)
        wait_for_all()
        if self._writer is None:
            self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        described = {**progress, "arrays": {"parameters": _described(parameters), "training": _described(training)}}
        try:
            # Where this fails, Orbax's threads would wait five minutes for the directory, and the process with them.
            self.directory.mkdir(parents=True, exist_ok=True)
            self._writer.save(
                target.absolute(),
                ocp.args.Composite(
                    parameters=ocp.args.StandardSave(parameters),
                    training=ocp.args.StandardSave(dict(training)),
                    progress=ocp.args.JsonSave(described),
                ),
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"checkpoint {target} could not be written: {_reason(error)}") from error
        self._finishing = threading.Thread(
            target=self._finish, args=(step, kept | {step}, on_complete), name="checkpoint"
        )
        self._finishing.start()

    def _finish(self, step: int, kept: set[int], on_complete: Callable[[], None]) -> None:
        assert self._writer is not None  # which has begun to write
        target = self.directory / str(step)
        try:
            self._writer.wait_until_finished()
            if is_first():
                beside = {name: content for name, content in self._beside().items() if content is not None}
                write_manifest(target, step, beside)
                on_complete()
                for other in set(self._begun()) - kept:
                    _remove(self.directory / str(other))
        except Exception as error:  # handed to the main thread, which raises it at the next save or wait
            self._failure = error
            _logger.warning("checkpoint %s could not be written: %s", target, _reason(error))

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
          CheckpointError: it could not be written.
        """
        if (failure := self.take_failure()) is not None:
            raise failure

    @property
    def failure(self) -> CheckpointError | None:
        """That the last save could not be written, as soon as that is known."""
        if self._failure is None:
            return None
        error = CheckpointError(f"a checkpoint in {self.directory} could not be written: {_reason(self._failure)}")
        error.__cause__ = self._failure
        return error

    def take_failure(self) -> CheckpointError | None:
        """Waits as `wait` does, and gives what that would raise."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        failure, self._failure = self.failure, None
        return failure

    def close(self) -> None:
        """Waits, and lets go of the writer's threads."""
        self.wait()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def newest_good(self) -> int | None:
        """The newest step whose files all verify; damaged ones are named in the log. None where there is no step.

        Of several processes the first one looks.

        Raises:
          CheckpointError: there are steps, but none is whole.
        """
        return from_first(self.find_newest_good)

    def find_newest_good(self) -> int | None:
        """As `newest_good`, in this process alone."""
        problem = None
        for step in reversed(self._begun()):
            problem = self._defect(step)
            if problem is None:
                return step
            _logger.warning("checkpoint %s is left out: %s", self.directory / str(step), problem)
        if steps := self.steps():
            raise CheckpointError(
                f"no checkpoint in {self.directory} is whole: {len(steps)} of {len(steps)} are damaged; the first: "
                f"{problem}"
            )
        return None

    def _defect(self, step: int) -> str | None:
        return defect(self.directory / str(step), step, self._beside())

    def verify(self, step: int) -> None:
        """Checks every file of a step.

        Raises:
          CheckpointError: a file is missing or damaged.
        """
        if problem := self._defect(step):
            raise CheckpointError(f"checkpoint {self.directory / str(step)} cannot be used: {problem}")

    def progress(self, step: int) -> dict[str, Any]:
        """What `save` was given to remember, and `arrays`."""
        return self._restore(step, progress=ocp.args.JsonRestore())["progress"]

    def restore(
        self, step: int, parameters: Shapes, training: Mapping[str, Any] | None = None
    ) -> tuple[Parameters, dict[str, Any] | None]:
        """Reads a step into the shapes, dtypes and shardings asked for.

        Args:
          step: a verified step.
          parameters: tree of ShapeDtypeStruct with shardings.
          training: trees of the same by name; None reads the parameters alone.

        Raises:
          CheckpointError: an array is missing, extra, or of another shape or dtype.
        """
        arrays = self.progress(step)["arrays"]
        self._check(step, arrays["parameters"], parameters)
        items = {"parameters": ocp.args.StandardRestore(parameters)}
        if training is not None:
            self._check(step, arrays["training"], training)
            items["training"] = ocp.args.StandardRestore(dict(training))
        restored = self._restore(step, **items)
        return restored["parameters"], restored["training"] if training is not None else None

    def restore_training(self, step: int, name: str, target: Tree) -> Tree:
        """Reads one of the trees that `save` was given as `training`.

        Args:
          step: a verified step.
          name: of the tree.
          target: tree of ShapeDtypeStruct with shardings.

        Raises:
          CheckpointError: an array is missing, extra, or of another shape or dtype.
        """
        arrays = self.progress(step)["arrays"]["training"]
        own = {path: described for path, described in arrays.items() if path.split("/")[0] == name}
        self._check(step, own, {name: target})
        item = {name: target}
        arguments = ocp.checkpoint_utils.construct_restore_args(item)
        part = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
        return self._restore(step, training=part)["training"][name]

    def _restore(self, step: int, **items: Any) -> Any:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            try:
                return reader.restore((self.directory / str(step)).absolute(), ocp.args.Composite(**items))
            except (OSError, ValueError, KeyError) as error:
                raise CheckpointError(f"checkpoint {self.directory / str(step)} cannot be read: {error}") from error

    def _check(self, step: int, saved: Mapping[str, list], wanted: Tree) -> None:
        asked = _described(wanted)
        where = self.directory / str(step)
        if missing := sorted(set(asked) - set(saved)):
            raise CheckpointError(f"checkpoint {where} has no array {missing[0]} {_shown(asked[missing[0]])}")
        if extra := sorted(set(saved) - set(asked)):
            raise CheckpointError(
                f"checkpoint {where} has an array {extra[0]} {_shown(saved[extra[0]])} that this run has not"
            )
        for name, described in asked.items():
            if list(saved[name]) != described:
                raise CheckpointError(
                    f"checkpoint {where}: {name} is {_shown(saved[name])}, expected {_shown(described)}"
                )


def described_arrays(arrays: Mapping[str, list], sharding: jax.sharding.Sharding | None = None) -> Shapes:
    """A nested dict of ShapeDtypeStruct from the `parameters` that a checkpoint's progress describes.

    Args:
      arrays: name, with `/` between levels, to shape and dtype.
      sharding: of all of them; None for the default device.
    """
    tree: dict = {}
    for name, (shape, dtype) in arrays.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=sharding)
    return tree


def _described(tree: Tree) -> dict[str, list]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in leaves
    }


def _reason(error: BaseException) -> str:
    """Why a write failed; TensorStore also repeats, in brackets, all that it was asked for."""
    if isinstance(error, OSError):
        return str(error)
    return str(error).partition(" [os_error_code")[0].partition(" [tensorstore_spec")[0]


def _shown(described: list) -> str:
    shape, dtype = described
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _remove(directory: pathlib.Path) -> None:
    """Renames first, so that a step that is half removed is never taken for one."""
    trash = directory.with_name(f".removed-{directory.name}")
    shutil.rmtree(trash, ignore_errors=True)
    directory.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
