"""What formulas say of a recipe on devices that are not here."""

from __future__ import annotations

import dataclasses

from jaxft.models.config import Remat
from jaxft.parallel.mesh import abstract_mesh
from jaxft.parallel.platform import planned_for
from jaxft.planning.estimate import Estimate, by_formula
from jaxft.planning.flops import Flops, Pass, training_flops
from jaxft.planning.memory import Memory, ParameterRow, memory_of, parameter_table
from jaxft.planning.topology import Topology
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.plan.blueprint import Blueprint, make_blueprint


@dataclasses.dataclass(frozen=True)
class Sketch:
    """What formulas say of a recipe on a topology.

    Attributes:
      blueprint: the run in shapes.
      topology: the devices.
      passes: of each stream through the model.
      flops: of a step in the mean, without what a mask hides.
      tokens: that a step reads in the mean.
      memory: of a device.
      estimate: of a step's time.
    """

    blueprint: Blueprint
    topology: Topology
    passes: dict[str, tuple[Pass, ...]]
    flops: Flops
    tokens: float
    memory: Memory
    estimate: Estimate

    @property
    def table(self) -> list[ParameterRow]:
        """All parameters."""
        with planned_for(self.topology.platform):
            return parameter_table(self.blueprint.state.parameters, self.blueprint.axes)


def make_sketch(recipe: Recipe, document: Document, topology: Topology) -> Sketch:
    """What formulas say, without compiling anything.

    Raises:
      RecipeError: the recipe is wrong, or does not fit its mesh.
    """
    mesh = abstract_mesh(recipe.mesh, topology.devices, topology.slices)
    with planned_for(topology.platform):
        blueprint = make_blueprint(recipe, document, mesh)
        passes, training = blueprint.passes(), blueprint.assembly.recipe.training
    return sketched(blueprint, topology, passes, training.micro_batches, training.remat)


def sketched(
    blueprint: Blueprint,
    topology: Topology,
    passes: dict[str, tuple[Pass, ...]],
    micro_batches: int,
    remat: Remat,
    loss_parts: int | None = None,
) -> Sketch:
    """As `make_sketch`, of a blueprint, with other parts of its batch and of its loss, and another policy."""
    model, streams, mesh = blueprint.assembly.model, blueprint.assembly.recipe.streams, blueprint.assembly.mesh.shape
    compute = dataclasses.replace(model.compute, remat=remat, loss_parts=loss_parts or model.compute.loss_parts)
    # A stream that takes part in every third step costs a third in the mean.
    shares = {name: 1 / streams[name].every for name in passes}
    flops = [training_flops(model.config, own).times(shares[name]) for name, own in passes.items()]
    memory = memory_of(
        blueprint.state, blueprint.trained, passes, model.config, compute, mesh, micro_batches, topology.platform
    )
    every = [one for own in passes.values() for one in own]
    return Sketch(
        blueprint,
        topology,
        passes,
        Flops(*(sum(getattr(one, part) for one in flops) for part in ("layers", "attention", "heads"))),
        sum(one.tokens * shares[name] for name, own in passes.items() for one in own if one.trained),
        memory,
        by_formula(every, model.config, compute, memory, mesh, micro_batches, topology),
    )
