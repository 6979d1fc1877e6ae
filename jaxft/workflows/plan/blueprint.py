"""A run as far as it can be made without its data and its devices: shapes alone."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax

from jaxft.data.batches import Batch, StreamBatches
from jaxft.data.preparing import Preparation
from jaxft.data.sources import SourceConfig
from jaxft.models.model import abstract_parameters
from jaxft.objectives.config import ObjectiveConfig
from jaxft.parallel.sharding import batch_sharding
from jaxft.planning.flops import Pass
from jaxft.planning.passes import passes_of
from jaxft.planning.specimens import PlannedTokenizer
from jaxft.recipe.presets import PRESETS
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.training.state import TrainState, abstract_state, split
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import store_sources, with_rows_of_shares
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.assembly.stores import plan
from jaxft.workflows.assembly.train_setup import TrainSetup, make_train_setup

# Rows of a text are at most as long where neither objective nor model says how long they are.
_LENGTH = 8192
# Of a run whose steps follow from its data; schedules depend on them, shapes and costs do not.
_STEPS = 1000

Mesh = jax.sharding.Mesh | jax.sharding.AbstractMesh


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A run in shapes.

    Attributes:
      assembly: its parts.
      setup: what it trains.
      state: tree of ShapeDtypeStruct with shardings.
      batches: ShapeDtypeStruct with shardings by stream and array.
    """

    assembly: Assembly
    setup: TrainSetup
    state: TrainState
    batches: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]

    @property
    def trained(self) -> Any:
        """The parameters that are trained, others None."""
        return split(self.state.parameters, self.setup.keeping.trained)[0]

    @property
    def axes(self) -> Any:
        """Logical axes of the parameters."""
        return abstract_parameters(self.setup.model)[1]

    def passes(self) -> dict[str, tuple[Pass, ...]]:
        """The passes of each stream that takes part in training, in a step in which all do."""
        streams = self.assembly.recipe.streams
        return {
            name: passes_of(self.setup.objective(name), self.setup.model, _bare(self.state.parameters), _bare(batch))
            for name, batch in self.batches.items()
            if streams[name].weight
        }

    def lowered(self) -> jax.stages.Lowered:
        """The train step, ready for the compiler of the mesh's devices."""
        with jax.set_mesh(self.assembly.mesh):
            return self.setup.jitted_step().lower(self.state, self.batches)


def _bare(tree: Any) -> Any:
    """The shapes without their place on devices."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def make_blueprint(recipe: Recipe, document: Document, mesh: Mesh) -> Blueprint:
    """The blueprint of a recipe, whose sources and vocabulary need not be there.

    Every row of a batch is taken to be full, with one piece of text.

    Args:
      recipe: as decoded.
      document: where its keys were written.
      mesh: of the devices to plan for, which may be abstract.

    Raises:
      RecipeError: whatever `jaxft.workflows.assembly.assemble` would raise but for the data, and a mesh that does not
        fit batches or parameters.
      CheckpointError: the pretrained model that it names is not here.
    """
    # An abstract mesh does all that is asked of it here.
    devices = cast(jax.sharding.Mesh, mesh)
    with tempfile.TemporaryDirectory() as directory, _quiet():
        planned = _with_specimens(recipe, pathlib.Path(directory))
        assembly = with_rows_of_shares(assemble(planned, document, tokenizer=_planned_tokenizer(recipe), mesh=devices))
        rows = {name: _first_row(assembly, name) for name in assembly.recipe.streams}
    sharding = batch_sharding(devices)
    batches = {
        name: {
            key: jax.ShapeDtypeStruct(
                (assembly.recipe.streams[name].batch_size, *one.shape[1:]), one.dtype, sharding=sharding
            )
            for key, one in row.items()
        }
        for name, row in rows.items()
        if assembly.recipe.streams[name].weight
    }
    setup = make_train_setup(assembly, recipe.training.steps or _STEPS)
    return Blueprint(assembly, setup, abstract_state(setup.model, setup.optimizer, devices, setup.keeping), batches)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what is told of data: that the texts of stand-ins are too long is nobody's concern."""
    logger = logging.getLogger("jaxft")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _planned_tokenizer(recipe: Recipe) -> PlannedTokenizer | None:
    """One of the size of the vocabulary that the recipe trains; None where it names one that is there."""
    section = recipe.tokenizer
    training = None if section is None else section.training
    if training is not None:
        return PlannedTokenizer(training.vocab_size, training.sentinels, training.special_tokens)
    size = recipe.model.vocab_size
    missing = section is not None and section.path is not None and not pathlib.Path(section.path).exists()
    return PlannedTokenizer(size, sentinels=100) if missing and size is not None else None


def _with_specimens(recipe: Recipe, directory: pathlib.Path) -> Recipe:
    """The recipe with rows that fill its batches in place of its data."""
    preset = PRESETS.get(recipe.model.preset or "", {})
    length = recipe.model.max_length or preset.get("max_length") or _LENGTH

    def source(name: str, config: ObjectiveConfig, given: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        return (config.write_specimens(directory / name, config.length or length),) * len(given)

    streams = {
        name: dataclasses.replace(one, source=source(f"stream_{name}", one.objective, one.source), augmentation=None)
        for name, one in recipe.streams.items()
    }
    objectives = {
        name: one.objective or recipe.streams[recipe.objective_of(name)].objective
        for name, one in recipe.evaluation.items()
    }
    evaluation = {
        name: dataclasses.replace(one, source=source(f"evaluation_{name}", objectives[name], one.source))
        for name, one in recipe.evaluation.items()
    }
    data = dataclasses.replace(recipe.data, directory=str(directory), cache=str(directory / "cache"))
    return dataclasses.replace(recipe, streams=streams, evaluation=evaluation, data=data)


def _first_row(assembly: Assembly, name: str) -> Batch:
    """A row of a stream's batches, as a batch of one."""
    objective = assembly.objectives[name]
    source = next(one for one in store_sources(assembly) if one.where in (f"streams.{name}", f"streams.{name}[0]"))
    store = source.open(Preparation(assembly.recipe.data.bad_rows))
    rows = plan(source.where, store, objective, 0)
    return StreamBatches(store, rows, objective.make_row, 1, 0, partner=objective.partner).batch(0)
