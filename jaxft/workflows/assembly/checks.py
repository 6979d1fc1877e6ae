"""Whether the parts of a recipe fit each other, as far as that can be told before anything is trained."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxft.data.sources import resolve_paths
from jaxft.errors import RecipeError
from jaxft.evaluation.measures import TABLES
from jaxft.objectives.objective import Objective
from jaxft.parallel.mesh import batch_shards
from jaxft.recipe.decoding import fail
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe


def check_sources(recipe: Recipe, document: Document, directory: pathlib.Path) -> None:
    """Names the key of a source whose files are not there, before anything is read."""
    sections = [("streams", name, stream.source) for name, stream in recipe.streams.items()]
    sections += [("evaluation", name, section.source) for name, section in recipe.evaluation.items()]
    for section, name, sources in sections:
        for source in sources:
            try:
                resolve_paths(source, directory)
            except RecipeError as error:
                fail(document, (section, name, "source"), str(error))


def check_origin(recipe: Recipe, document: Document, objectives: Mapping[str, Objective]) -> None:
    """Whether there is something that objectives can compare with, which ask for what the model was at the start."""
    compared = [objective.kind for objective in objectives.values() if objective.needs_origin]
    if compared and recipe.model.pretrained is None:
        problem = f"objective {compared[0]} compares with a pretrained model; name it, as in {{pretrained: runs/tuned}}"
        fail(document, ("model",), problem)


def check_stream(recipe: Recipe, document: Document, name: str, objective: Objective) -> None:
    """Whether the objective of a stream suits how the recipe trains it."""
    if not objective.trains:
        fail(document, ("streams", name, "objective", "kind"), f"{objective.kind} only measures: use it in evaluation")
    if objective.whole_batch and recipe.training.micro_batches > 1:
        problem = f"must be 1: {objective.kind} compares all rows of streams.{name} with each other"
        fail(document, ("training", "micro_batches"), problem)
    if recipe.streams[name].augmentation is not None and not objective.augmentable:
        problem = f"is for tasks that read whole texts, not for {objective.kind}"
        fail(document, ("streams", name, "augmentation"), problem)


def check_metrics(recipe: Recipe, document: Document, objectives: Mapping[str, Objective]) -> None:
    """Whether the metrics that the recipe names are there."""
    known = set()
    for name, section in recipe.evaluation.items():
        available = objectives[recipe.objective_of(name)].metrics
        for metric in section.metrics or ():
            if metric not in available:
                fail(
                    document,
                    ("evaluation", name, "metrics"),
                    f"{metric!r} is not a metric of this objective, which has {', '.join(available)}",
                )
        known |= {f"{name}.{metric}" for metric in section.metrics or available if metric not in TABLES}
    wanted: list[tuple[tuple[str, ...], Any]] = [(("checkpoint", "best"), recipe.checkpoint.best)]
    if recipe.training.early_stopping is not None:
        wanted.append((("training", "early_stopping", "metric"), recipe.training.early_stopping.metric))
    for path, metric in wanted:
        if metric is not None and metric not in known:
            fail(
                document,
                path,
                f"{metric!r} is not evaluated; the evaluations give {', '.join(sorted(known)) or 'nothing'}",
            )


def check_batches(recipe: Recipe, document: Document, mesh: jax.sharding.Mesh) -> None:
    """Whether the rows of each stream divide over the devices."""
    shards = batch_shards(mesh)
    for name, stream in recipe.streams.items():
        if stream.batch_size is None:  # its share makes rows that divide
            continue
        rows = stream.batch_size // recipe.training.micro_batches
        if rows % shards:
            fail(
                document,
                ("streams", name, "batch_size"),
                f"{rows} rows at a time do not divide over the {shards} devices of the mesh axes data and fsdp",
            )


def lower_is_better(recipe: Recipe, objectives: Mapping[str, Objective], metric: str) -> bool:
    """Whether a metric like `reviews.loss` is better when lower."""
    name, _, short = metric.partition(".")
    return short in objectives[recipe.objective_of(name)].lower_is_better
