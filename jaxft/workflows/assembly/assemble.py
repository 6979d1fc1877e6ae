"""From a recipe to the parts of a run: tokenizer, objectives, model, batches, evaluators."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxft.data.augmentation import Augmenter, FilledCopies
from jaxft.data.batches import MixedBatches, StreamBatches
from jaxft.data.chat import texts_of
from jaxft.data.mixing import make_mixture
from jaxft.data.preparing import Preparation
from jaxft.data.sources import SourceConfig
from jaxft.data.store import Record, fingerprint_of
from jaxft.data.tokenizers import NoTokenizer, Tokenizer, load_tokenizer, train_tokenizer
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.evaluation.evaluator import Evaluator, WriteAnswers
from jaxft.finetuning.adapters import AdapterModel
from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.expressing import natural_head
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.objectives.instruction import Conversation
from jaxft.objectives.objective import FoundInData, Objective, ObjectiveContext
from jaxft.objectives.registry import ObjectiveConfig, make_objective, text_columns
from jaxft.objectives.writing import WritesAnswers
from jaxft.parallel.mesh import batch_shards, make_mesh
from jaxft.parallel.processes import first_then_others, process_count
from jaxft.recipe.decoding import fail
from jaxft.recipe.reading import Document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.assembly.checks import check_batches, check_metrics, check_origin, check_sources, check_stream
from jaxft.workflows.assembly.filled_stores import filled_source
from jaxft.workflows.assembly.image_normalization import with_preprocessing
from jaxft.workflows.assembly.stores import StoreSource, cache_of, fingerprint, good_rows, plan, store_source
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.loading import open_pretrained
from jaxft.workflows.weights.pretrained import Pretrained

_logger = logging.getLogger("jaxft")

# Evaluations use the same masks and order in every run, whatever its seed.
EVALUATION_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
      recipe: resolved: labels found, model fields filled in, the data's directory absolute.
      document: where the user wrote each key.
      tokenizer: of all streams.
      model: trunk with the heads of all objectives, and with adapters where the recipe has them.
      objectives: by stream, and by evaluation where that has one of its own.
      mesh: devices.
      pretrained: where the weights come from, or None.
      source_fingerprints: by `streams.NAME` and `evaluation.NAME`.
    """

    recipe: Recipe
    document: Document
    tokenizer: Tokenizer
    model: Model | AdapterModel
    objectives: Mapping[str, Objective]
    mesh: jax.sharding.Mesh
    pretrained: Pretrained | None
    source_fingerprints: Mapping[str, str]

    @property
    def plain_model(self) -> Model:
        """The model without adapters, as pretrained weights have it."""
        return self.model.base if isinstance(self.model, AdapterModel) else self.model

    @property
    def chat_template(self) -> str | None:
        """The template, in Jinja, of the first stream of conversations; None where no stream has any."""
        objectives = (self.objectives[name] for name in self.recipe.streams)
        return next((one.form.jinja for one in objectives if isinstance(one, Conversation)), None)

    def store_sources(self) -> list[StoreSource]:
        """What every store of the run is made of."""
        evaluations = (self._evaluation_source(name) for name in self.recipe.evaluation)
        streams = {name: self._stream_sources(name) for name in self.recipe.streams}
        filled = [self._filled_source(name, source) for name, own in streams.items() for source in own]
        return [*itertools.chain.from_iterable(streams.values()), *filter(None, filled), *evaluations]

    def _stream_sources(self, name: str) -> list[StoreSource]:
        """One of all sources together, or, where they are mixed, one of each."""
        stream, where, objective = self.recipe.streams[name], f"streams.{name}", self.objectives[name]
        if stream.mixing is None:
            return [store_source(where, stream.source, objective, self.recipe, self.tokenizer)]
        return [
            store_source(f"{where}[{number}]", (source,), objective, self.recipe, self.tokenizer)
            for number, source in enumerate(stream.source)
        ]

    def _evaluation_source(self, name: str) -> StoreSource:
        section = self.recipe.evaluation[name]
        objective = self.objectives[section.stream or name].for_evaluation()
        return store_source(f"evaluation.{name}", section.source, objective, self.recipe, self.tokenizer)

    def held_out(self, source: StoreSource, batch_size: int | None = None) -> StreamBatches:
        """Batches of held-out data, always the same; tokenizes what is not in the cache.

        Args:
          source: what they are made of.
          batch_size: rows at a time; as the largest of the streams where None.
        """
        objective, store = source.objective, source.open(self._preparation)
        rows, shards = plan(source.where, store, objective, EVALUATION_SEED), batch_shards(self.mesh)
        size = batch_size or min(len(rows), max(s.batch_size for s in self.recipe.streams.values()))
        size = -(-size // shards) * shards
        return StreamBatches(
            store, rows, objective.make_row, size, EVALUATION_SEED, shuffle=False, partner=objective.partner
        )

    def batches(self) -> dict[str, StreamBatches | MixedBatches]:
        """Batches of every stream; tokenizes what is not in the cache."""
        parts = {name: self._parts(name) for name in self.recipe.streams}
        steps = self._steps(next(iter(parts.values())))
        return {name: self._mixed(name, own, steps) for name, own in parts.items()}

    def with_rows_of_shares(self) -> Assembly:
        """With rows in place of the shares that streams have of all tokens; tokenizes what is not in the cache."""
        streams = dict(self.recipe.streams)
        shared = {name: stream.share for name, stream in streams.items() if stream.share is not None}
        if not shared:
            return self
        first = next(iter(streams))
        if (rest := 1 - sum(shared.values())) <= 0:
            fail(self.document, ("streams",), f"the shares leave nothing for {first}: {sum(shared.values()):g}")
        whole = streams[first].batch_size / streams[first].every * self._tokens_per_row(first) / rest
        fewest = batch_shards(self.mesh) * self.recipe.training.micro_batches
        for name, share in shared.items():
            rows = share * whole / self._tokens_per_row(name)
            size = max(fewest, round(rows / fewest) * fewest)
            every = max(1, round(size / rows))
            streams[name] = dataclasses.replace(streams[name], share=None, batch_size=size, every=every)
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, streams=streams))

    def _tokens_per_row(self, name: str) -> float:
        """Tokens of a stream's texts in a row, in the mean."""
        objective, tokens, rows = self.objectives[name], 0, 0
        for source in self._stream_sources(name):
            store = source.open(self._preparation)
            tokens += int(np.minimum(store.lengths, objective.longest if objective.truncate else np.inf).sum())
            rows += len(plan(source.where, store, objective, self.recipe.training.seed))
        return tokens / rows

    def _parts(self, name: str) -> tuple[StreamBatches, ...]:
        """Batches of each source of a stream, all of its size, with random choices of their own."""
        stream, objective, parts = self.recipe.streams[name], self.objectives[name], []
        for number, source in enumerate(self._stream_sources(name)):
            seed, store = self.recipe.training.seed + (number << 32), source.open(self._preparation)
            rows = plan(source.where, store, objective, seed)
            made = StreamBatches(
                store,
                rows,
                objective.make_row,
                stream.batch_size,
                seed,
                partner=objective.partner,
                filled=self._filled(name, source),
                augment=self._augment(name),
            )
            parts.append(made)
        total = sum(part.rows for part in parts)
        if total < stream.batch_size:
            what = "packed rows" if objective.pack else "examples"
            fail(
                self.document,
                ("streams", name, "batch_size"),
                f"a batch of {stream.batch_size} is larger than the data, which makes {total} {what}",
            )
        return tuple(parts)

    def _augment(self, name: str) -> Callable[[Record, np.random.Generator], Record] | None:
        config = self.recipe.streams[name].augmentation
        if config is None or not config.changes_words:
            return None
        return functools.partial(Augmenter(config, self.tokenizer), self.objectives[name].longest)

    def _filled_source(self, name: str, source: StoreSource) -> StoreSource | None:
        stream = self.recipe.streams[name]
        if stream.augmentation is None or stream.augmentation.fill is None:
            return None
        return filled_source(source, text_columns(stream.objective)[0], stream.augmentation.fill)

    def _filled(self, name: str, source: StoreSource) -> FilledCopies | None:
        """Copies of a source's texts with filled words; made if they are not in the cache."""
        filled = self._filled_source(name, source)
        if filled is None:
            return None
        if process_count() > 1 and not filled.exists:
            raise RecipeError(
                f"{filled.where}: the words of augmentation.fill are filled in by one process; run it first with "
                "`jaxft prepare`, with data.cache on storage that all processes share"
            )
        store = filled.open(self._preparation)
        return FilledCopies(store, self.recipe.streams[name].augmentation.fill.variants, self.objectives[name].longest)

    def _mixed(self, name: str, parts: tuple[StreamBatches, ...], steps: int) -> StreamBatches | MixedBatches:
        stream = self.recipe.streams[name]
        if stream.mixing is None:
            return parts[0]
        try:
            mixture = make_mixture(stream.mixing, [part.rows for part in parts], stream.batch_size, steps)
        except InvalidField as error:
            fail(self.document, ("streams", name, "mixing", error.field), error.problem)
        return MixedBatches(parts, mixture, stream.batch_size)

    @property
    def _preparation(self) -> Preparation:
        return Preparation(self.recipe.data.bad_rows)

    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluators by name; tokenizes what is not in the cache."""
        return {name: self._evaluator(name) for name in self.recipe.evaluation}

    def _evaluator(self, name: str) -> Evaluator:
        section, source = self.recipe.evaluation[name], self._evaluation_source(name)
        metrics = section.metrics or source.objective.default_metrics
        batches = self.held_out(source, section.batch_size)
        write = self.writer(source.objective, section.generation, batches.batch_size)
        return Evaluator(name, self.model, source.objective, batches, metrics, self.mesh, write)

    def writer(self, objective: Objective, config: GenerationConfig | None, batch_size: int) -> WriteAnswers | None:
        """How the model answers the prompts of an objective whose answers are written; None for others.

        Args:
          objective: see there.
          config: how it writes; greedily, and as long as the objective's answers may be, where None.
          batch_size: answers that are written at once.
        """
        if not isinstance(objective, WritesAnswers):
            return None
        config = config or GenerationConfig(max_new_tokens=objective.longest_answer)
        special = SpecialTokens(end=objective.end_ids, pad=self.tokenizer.pad_id, start=objective.start_ids)
        generator = Generator(self.model, special, self.tokenizer, self.mesh, batch_size)

        def write(parameters, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
            written = generator.generate(parameters, prompts, config)
            return [one.token_ids[~np.isin(one.token_ids, special.end)] for one in written]

        return write

    def total_steps(self, batches: Mapping[str, StreamBatches | MixedBatches]) -> int:
        """Steps of the run; epochs count passes over the first stream."""
        first = next(iter(batches.values()))
        return self._steps(first.parts if isinstance(first, MixedBatches) else (first,))

    def _steps(self, first: tuple[StreamBatches, ...]) -> int:
        training = self.recipe.training
        if training.steps is not None:
            return training.steps
        return max(1, round(training.epochs * sum(part.rows for part in first) / first[0].batch_size))


def assemble(
    recipe: Recipe,
    document: Document,
    run: RunDirectory | None = None,
    tokenizer: Tokenizer | None = None,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
) -> Assembly:
    """Makes the parts of a run, checking what can be checked before any training.

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
        tokenizer = _tokenizer(recipe, directory, pretrained, run.tokenizer if run is not None else None)
    config = _model_config(recipe, document, pretrained, tokenizer)
    recipe = with_preprocessing(_completed(recipe), pretrained.settings if pretrained is not None else None)
    origin = (stored or pretrained).huggingface if stored or pretrained else None
    objectives = _objectives(recipe, document, tokenizer, config, origin)
    if stored is None:
        check_origin(recipe, document, objectives)
    check_metrics(recipe, document, objectives)
    mesh = make_mesh(recipe.mesh) if mesh is None else mesh
    check_batches(recipe, document, mesh)
    known = (stored or pretrained).heads if stored or pretrained else {}
    heads = {
        name: _head(name, head, known.get(name), config, origin)
        for objective in objectives.values()
        for name, head in objective.heads.items()
    }
    resolved = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **_fields(config)))
    assembly = Assembly(
        recipe=resolved,
        document=document,
        tokenizer=tokenizer,
        model=_model(recipe, config, heads),
        objectives=objectives,
        mesh=mesh,
        pretrained=pretrained,
        source_fingerprints=_fingerprints(recipe, directory),
    )
    return assembly.with_rows_of_shares()


def _model(recipe: Recipe, config: ModelConfig, heads: Mapping[str, HeadConfig]) -> Model | AdapterModel:
    compute = {field.name: getattr(recipe.training, field.name) for field in dataclasses.fields(ComputeConfig)}
    model = Model(config, tuple(heads.items()), ComputeConfig(**compute))
    adapters = recipe.finetuning.adapters
    return model if adapters is None else AdapterModel(model, adapters)


def _head(
    name: str, asked: HeadConfig, known: HeadConfig | None, model: ModelConfig, origin: HuggingFaceConfig | None
) -> HeadConfig:
    """A head in the shape that its weights have, where there are any of the kind that is asked for; else in the one
    that the trunk's architecture gives it."""
    fits = known is not None and (known.kind, known.num_labels) == (asked.kind, asked.num_labels)
    if fits and (not asked.num_labels or asked.pooling in (None, known.pooling)):
        return dataclasses.replace(known, dropout=asked.dropout)
    return natural_head(name, asked, model, origin)


def _fields(config: ModelConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _fingerprints(recipe: Recipe, directory: pathlib.Path) -> dict[str, str]:
    sections = {f"streams.{name}": stream.source for name, stream in recipe.streams.items()}
    sections |= {f"evaluation.{name}": section.source for name, section in recipe.evaluation.items()}
    return {name: fingerprint(sources, directory) for name, sources in sections.items()}


def _tokenizer(recipe: Recipe, directory: pathlib.Path, pretrained: Pretrained | None, run_tokenizer) -> Tokenizer:
    if run_tokenizer is not None and run_tokenizer.is_dir():
        return load_tokenizer(run_tokenizer)
    if recipe.tokenizer is None:
        return load_tokenizer(pretrained.tokenizer_directory)
    if recipe.tokenizer.path is not None:
        path = pathlib.Path(recipe.tokenizer.path)
        return load_tokenizer(path if path.exists() or path.is_absolute() else directory / path)
    return _trained_tokenizer(recipe, directory)


def _trained_tokenizer(recipe: Recipe, directory: pathlib.Path) -> Tokenizer:
    """Trains on the texts of all streams, or finds what an earlier start trained."""
    streams = [(s.source, column) for s in recipe.streams.values() for column in text_columns(s.objective)]
    sources = "+".join(f"{fingerprint(group, directory)}.{column}" for group, column in streams)
    name = fingerprint_of(sources=sources, config=str(recipe.tokenizer.training))
    target = cache_of(recipe) / "tokenizers" / name
    with first_then_others():
        if not target.is_dir():
            texts = _texts(recipe, streams)
            partial = target.with_name(f"{name}.{uuid.uuid4().hex[:8]}.partial")
            train_tokenizer(texts, recipe.tokenizer.training, partial)
            with contextlib.suppress(OSError):  # another process was first: its tokenizer is the same
                partial.rename(target)
            shutil.rmtree(partial, ignore_errors=True)
    return load_tokenizer(target)


def _texts(recipe: Recipe, streams: list[tuple[tuple[SourceConfig, ...], str]]) -> Iterator[str]:
    for group, column in streams:
        for row in good_rows(group, recipe):
            try:
                yield from texts_of(row, column)
            except DataError:
                if recipe.data.bad_rows.policy == "raise":
                    raise


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
        name: dataclasses.replace(own, objective=_found(own.objective, own.source, recipe, f"evaluation.{name}"))
        for name, own in recipe.evaluation.items()
    }
    return dataclasses.replace(recipe, streams=streams, evaluation=evaluation)


def _found(
    config: ObjectiveConfig | None, sources: tuple[SourceConfig, ...], recipe: Recipe, said: str
) -> ObjectiveConfig | None:
    if not isinstance(config, FoundInData) or config.is_complete:
        return config
    return config.completed(_targets(config, sources, recipe), said)


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
        objectives[name] = make_objective(config, ObjectiveContext(tokenizer, model, name, decoder_start_id))
        if model.has_learned_positions and objectives[name].target_length > model.max_length:
            problem = f"must be at most the model's max_length {model.max_length}"
            fail(document, (section, name, "objective", "target_length"), problem)
        if section == "streams":
            check_stream(recipe, document, name, objectives[name])
    return objectives
