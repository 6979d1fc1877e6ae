"""From a recipe to the parts of a run: tokenizer, objectives, model."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxft.data.sources import SourceConfig
from jaxft.data.tokenizers import NoTokenizer, Tokenizer
from jaxft.errors import DataError, InvalidField
from jaxft.finetuning.adapters import AdapterModel
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.expressing import natural_head
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import AnyModel, Model
from jaxft.objectives.objective import FoundInData, Objective, ObjectiveContext
from jaxft.objectives.registry import ObjectiveConfig, make_objective
from jaxft.parallel.mesh import make_mesh
from jaxft.recipe.decoding import fail
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.assembly.checks import check_batches, check_metrics, check_origin, check_sources, check_stream
from jaxft.workflows.assembly.image_normalization import with_preprocessing
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.assembly.stores import fingerprint, good_rows
from jaxft.workflows.assembly.tokenizers import make_tokenizer
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.loading import open_pretrained
from jaxft.workflows.weights.pretrained import Pretrained

_logger = logging.getLogger("jaxft")


def assemble(
    recipe: Recipe,
    document: Document,
    run: RunDirectory | None = None,
    tokenizer: Tokenizer | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Assembly:
    """Makes the parts of a run, checking what can be checked before its data is tokenized.

    Nothing is written, but for a tokenizer that the recipe has trained, which is kept in the cache. Of the data, what
    objectives must find there is read, such as labels.

    Args:
      recipe: as decoded.
      document: where its keys were written.
      run: its directory; where it was started before, its tokenizer and heads are used again.
      tokenizer: in place of the one that the recipe names.
      mesh: in place of one of the devices here.

    Raises:
      RecipeError: a value that does not fit the others.
      DataError: the data is missing or wrong.
      CheckpointError: the pretrained model cannot be used.
    """
    directory = pathlib.Path(recipe.data.directory or pathlib.Path(document.name).parent).absolute()
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, directory=str(directory)))
    check_sources(recipe, document, directory)
    named = recipe.model.pretrained
    pretrained = open_pretrained(named, recipe.model.adapter) if named is not None else None
    stored = run.model() if run is not None and run.has_model() else None
    if (pretrained.config.family if pretrained is not None else recipe.model_family) == "vision":
        tokenizer = NoTokenizer()
    elif tokenizer is None:
        tokenizer = make_tokenizer(recipe, directory, pretrained, run)
    config = _model_config(recipe, document, pretrained, tokenizer)
    recipe = with_preprocessing(_completed(recipe), pretrained.settings if pretrained is not None else None)
    # What the run has, where it was started before; else what it begins with.
    owner = pretrained if stored is None else stored
    origin = None if owner is None else owner.huggingface
    objectives = _objectives(recipe, document, tokenizer, config, origin)
    if stored is None:
        check_origin(recipe, document, objectives)
    check_metrics(recipe, document, objectives)
    mesh = make_mesh(recipe.mesh) if mesh is None else mesh
    check_batches(recipe, document, mesh)
    heads = _heads(objectives, {} if owner is None else owner.heads, config, origin)
    resolved = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **_fields(config)))
    return Assembly(
        recipe=resolved,
        document=document,
        tokenizer=tokenizer,
        model=_model(recipe, config, heads),
        objectives=objectives,
        mesh=mesh,
        pretrained=pretrained,
        source_fingerprints=_fingerprints(recipe, directory),
    )


def _model(recipe: Recipe, config: ModelConfig, heads: Mapping[str, HeadConfig]) -> AnyModel:
    compute = {field.name: getattr(recipe.training, field.name) for field in dataclasses.fields(ComputeConfig)}
    model = Model(config, tuple(heads.items()), ComputeConfig(**compute))
    adapters = recipe.finetuning.adapters
    return model if adapters is None else AdapterModel(model, adapters)


def _heads(
    objectives: Mapping[str, Objective],
    known: Mapping[str, HeadConfig],
    model: ModelConfig,
    origin: HuggingFaceConfig | None,
) -> dict[str, HeadConfig]:
    """The heads that objectives ask for, by name, in the shape that their weights have where they are known."""
    return {
        name: _head(name, head, known.get(name), model, origin)
        for objective in objectives.values()
        for name, head in objective.heads.items()
    }


def _head(
    name: str, asked: HeadConfig, known: HeadConfig | None, model: ModelConfig, origin: HuggingFaceConfig | None
) -> HeadConfig:
    """A head in the shape that its weights have, where there are any of the kind that is asked for; else in the one
    that the trunk's architecture gives it."""
    if known is None or (known.kind, known.num_labels) != (asked.kind, asked.num_labels):
        return natural_head(name, asked, model, origin)
    if asked.num_labels and asked.pooling not in (None, known.pooling):
        return natural_head(name, asked, model, origin)
    return dataclasses.replace(known, dropout=asked.dropout)


def _fields(config: ModelConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _fingerprints(recipe: Recipe, directory: pathlib.Path) -> dict[str, str]:
    sections = {f"streams.{name}": stream.source for name, stream in recipe.streams.items()}
    sections |= {f"evaluation.{name}": section.source for name, section in recipe.evaluation.items()}
    return {name: fingerprint(sources, directory) for name, sources in sections.items()}


def _model_config(
    recipe: Recipe, document: Document, pretrained: Pretrained | None, tokenizer: Tokenizer
) -> ModelConfig:
    try:
        config = recipe.model_config(pretrained.config if pretrained else None, tokenizer.vocab_size)
    except InvalidField as error:
        fail(document, ("model", error.field), error.problem)
    if config.vocab_size < tokenizer.vocab_size:
        fail(
            document,
            ("model", "vocab_size"),
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the embedding only {config.vocab_size} rows",
        )
    return config


def _completed(recipe: Recipe) -> Recipe:
    """Fills in what objectives find in their data, such as the labels of classifiers."""
    streams = {
        name: dataclasses.replace(stream, objective=_found(stream.objective, stream.source, recipe, f"streams.{name}"))
        for name, stream in recipe.streams.items()
    }
    evaluation = {
        name: own
        if own.objective is None
        else dataclasses.replace(own, objective=_found(own.objective, own.source, recipe, f"evaluation.{name}"))
        for name, own in recipe.evaluation.items()
    }
    return dataclasses.replace(recipe, streams=streams, evaluation=evaluation)


def _found(config: ObjectiveConfig, sources: tuple[SourceConfig, ...], recipe: Recipe, where: str) -> ObjectiveConfig:
    if not isinstance(config, FoundInData) or config.is_complete:
        return config
    return config.completed(_targets(config, sources, recipe), where)


def _targets(config: FoundInData, sources: tuple[SourceConfig, ...], recipe: Recipe) -> Iterator[Any]:
    """What the rows say that can be used, where others may be skipped."""
    for row in good_rows(sources, recipe):
        try:
            yield config.target_of(row)
        except DataError:
            if recipe.data.bad_rows.policy == "raise":
                raise


def _objectives(
    recipe: Recipe, document: Document, tokenizer: Tokenizer, model: ModelConfig, origin: HuggingFaceConfig | None
) -> dict[str, Objective]:
    decoder_start_id = None if origin is None else origin.get("decoder_start_token_id", None, int)
    sections = [("streams", name, stream.objective) for name, stream in recipe.streams.items()]
    sections += [("evaluation", name, e.objective) for name, e in recipe.evaluation.items() if e.objective is not None]
    objectives = {}
    for section, name, config in sections:
        length = config.length or model.max_length
        if not 4 <= length <= model.max_length:
            fail(
                document,
                (section, name, "objective", "length"),
                f"must lie between 4 and the model's max_length {model.max_length}, found {length}",
            )
        context = ObjectiveContext(tokenizer, model, name, decoder_start_id, origin is not None)
        objectives[name] = make_objective(config, context)
        if model.has_learned_positions and objectives[name].target_length > model.max_length:
            problem = f"must be at most the model's max_length {model.max_length}"
            fail(document, (section, name, "objective", "target_length"), problem)
        if section == "streams":
            check_stream(recipe, document, name, objectives[name])
    return objectives
