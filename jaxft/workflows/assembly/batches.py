"""The stores and batches of a run's streams."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from jaxft.data.augmentation import Augmenter, FilledCopies
from jaxft.data.batches import MixedBatches, StreamBatches
from jaxft.data.mixing import make_mixture
from jaxft.data.preparing import Preparation
from jaxft.data.store import Record
from jaxft.errors import InvalidField, RecipeError
from jaxft.parallel.mesh import batch_shards
from jaxft.parallel.processes import process_count
from jaxft.recipe.decoding import fail
from jaxft.recipe.schema import StreamSection
from jaxft.workflows.assembly.filled_stores import FilledSource, filled_source
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.assembly.stores import StoreSource, plan, store_source

# Evaluations use the same masks and order in every run, whatever its seed.
EVALUATION_SEED = 2**31 - 1


def store_sources(assembly: Assembly) -> list[StoreSource]:
    """What every store of the run is made of."""
    evaluations = (evaluation_source(assembly, name) for name in assembly.recipe.evaluation)
    streams = {name: _stream_sources(assembly, name) for name in assembly.recipe.streams}
    filled = [_filled_source(assembly, name, source) for name, own in streams.items() for source in own]
    return [*itertools.chain.from_iterable(streams.values()), *filter(None, filled), *evaluations]


def _stream_sources(assembly: Assembly, name: str) -> list[StoreSource]:
    """One of all sources together, or, where they are mixed, one of each."""
    stream, where, objective = assembly.recipe.streams[name], f"streams.{name}", assembly.objectives[name]
    if stream.mixing is None:
        return [store_source(where, stream.source, objective, assembly.recipe, assembly.tokenizer)]
    return [
        store_source(f"{where}[{number}]", (source,), objective, assembly.recipe, assembly.tokenizer)
        for number, source in enumerate(stream.source)
    ]


def evaluation_source(assembly: Assembly, name: str) -> StoreSource:
    """What the store of an evaluation's held-out data is made of."""
    section = assembly.recipe.evaluation[name]
    objective = assembly.evaluated_objective(name).for_evaluation()
    return store_source(f"evaluation.{name}", section.source, objective, assembly.recipe, assembly.tokenizer)


def with_rows_of_shares(assembly: Assembly) -> Assembly:
    """The parts with rows in place of the shares that streams have of all tokens; tokenizes what is not in the cache.

    Raises:
      RecipeError: the shares leave nothing for the first stream.
      DataError: the data is wrong.
    """
    streams = dict(assembly.recipe.streams)
    shared = {name: stream.share for name, stream in streams.items() if stream.share is not None}
    if not shared:
        return assembly
    first = next(iter(streams))
    if (rest := 1 - sum(shared.values())) <= 0:
        fail(assembly.document, ("streams",), f"the shares leave nothing for {first}: {sum(shared.values()):g}")
    whole = _rows(streams[first]) / streams[first].every * _tokens_per_row(assembly, first) / rest
    fewest = batch_shards(assembly.mesh) * assembly.recipe.training.micro_batches
    for name, share in shared.items():
        rows = share * whole / _tokens_per_row(assembly, name)
        size = max(fewest, round(rows / fewest) * fewest)
        every = max(1, round(size / rows))
        streams[name] = dataclasses.replace(streams[name], share=None, batch_size=size, every=every)
    return dataclasses.replace(assembly, recipe=dataclasses.replace(assembly.recipe, streams=streams))


def _rows(stream: StreamSection) -> int:
    """Rows of a stream's batches, where it has no share any more."""
    assert stream.batch_size is not None, "see `with_rows_of_shares`"
    return stream.batch_size


def _tokens_per_row(assembly: Assembly, name: str) -> float:
    """Tokens of a stream's texts in a row, in the mean."""
    objective, tokens, rows = assembly.objectives[name], 0, 0
    for source in _stream_sources(assembly, name):
        store = source.open(preparation(assembly))
        tokens += int(np.minimum(store.lengths, objective.longest if objective.truncate else np.inf).sum())
        rows += len(plan(source.where, store, objective, assembly.recipe.training.seed))
    return tokens / rows


def make_batches(assembly: Assembly) -> dict[str, StreamBatches | MixedBatches]:
    """Batches of every stream by name, of parts `with_rows_of_shares`; tokenizes what is not in the cache.

    Raises:
      RecipeError: a batch is larger than its data, or a mixture impossible.
      DataError: the data is wrong.
    """
    parts = {name: _parts(assembly, name) for name in assembly.recipe.streams}
    steps = _steps(assembly, next(iter(parts.values())))
    return {name: _mixed(assembly, name, own, steps) for name, own in parts.items()}


def _parts(assembly: Assembly, name: str) -> tuple[StreamBatches, ...]:
    """Batches of each source of a stream, all of its size, with random choices of their own."""
    stream, objective, parts = assembly.recipe.streams[name], assembly.objectives[name], []
    for number, source in enumerate(_stream_sources(assembly, name)):
        seed, store = assembly.recipe.training.seed + (number << 32), source.open(preparation(assembly))
        rows = plan(source.where, store, objective, seed)
        made = StreamBatches(
            store,
            rows,
            objective.make_row,
            _rows(stream),
            seed,
            partner=objective.partner,
            filled=_filled(assembly, name, source),
            augment=_augment(assembly, name),
        )
        parts.append(made)
    total = sum(part.rows for part in parts)
    if total < _rows(stream):
        what = "packed rows" if objective.pack else "examples"
        fail(
            assembly.document,
            ("streams", name, "batch_size"),
            f"a batch of {stream.batch_size} is larger than the data, which makes {total} {what}",
        )
    return tuple(parts)


def _augment(assembly: Assembly, name: str) -> Callable[[Record, np.random.Generator], Record] | None:
    config = assembly.recipe.streams[name].augmentation
    if config is None or not config.changes_words:
        return None
    return functools.partial(Augmenter(config, assembly.tokenizer), assembly.objectives[name].longest)


def _filled_source(assembly: Assembly, name: str, source: StoreSource) -> FilledSource | None:
    stream = assembly.recipe.streams[name]
    if stream.augmentation is None or stream.augmentation.fill is None:
        return None
    return filled_source(source, stream.objective.text_columns()[0], stream.augmentation.fill)


def _filled(assembly: Assembly, name: str, source: StoreSource) -> FilledCopies | None:
    """Copies of a source's texts with filled words; made if they are not in the cache."""
    filled = _filled_source(assembly, name, source)
    if filled is None:
        return None
    if process_count() > 1 and not filled.exists:
        raise RecipeError(
            f"{filled.where}: the words of augmentation.fill are filled in by one process; run it first with "
            "`jaxft prepare`, with data.cache on storage that all processes share"
        )
    return FilledCopies(filled.open(preparation(assembly)), filled.config.variants, assembly.objectives[name].longest)


def _mixed(assembly: Assembly, name: str, parts: tuple[StreamBatches, ...], steps: int) -> StreamBatches | MixedBatches:
    stream = assembly.recipe.streams[name]
    if stream.mixing is None:
        return parts[0]
    try:
        mixture = make_mixture(stream.mixing, [part.rows for part in parts], _rows(stream), steps)
    except InvalidField as error:
        fail(assembly.document, ("streams", name, "mixing", error.field), error.problem)
    return MixedBatches(parts, mixture, _rows(stream))


def total_steps(assembly: Assembly, batches: Mapping[str, StreamBatches | MixedBatches]) -> int:
    """Steps of the run; epochs count passes over the first stream."""
    first = next(iter(batches.values()))
    return _steps(assembly, first.parts if isinstance(first, MixedBatches) else (first,))


def _steps(assembly: Assembly, first: tuple[StreamBatches, ...]) -> int:
    training = assembly.recipe.training
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None, "the recipe's own check asks for one of them"
    return max(1, round(training.epochs * sum(part.rows for part in first) / first[0].batch_size))


def held_out_batches(assembly: Assembly, source: StoreSource, batch_size: int | None = None) -> StreamBatches:
    """Batches of held-out data, always the same; tokenizes what is not in the cache.

    Args:
      assembly: parts of the run, `with_rows_of_shares`.
      source: what they are made of.
      batch_size: rows at a time; as the largest of the streams where None.
    """
    objective, store = source.objective, source.open(preparation(assembly))
    rows, shards = plan(source.where, store, objective, EVALUATION_SEED), batch_shards(assembly.mesh)
    size = batch_size or min(len(rows), max(_rows(stream) for stream in assembly.recipe.streams.values()))
    size = -(-size // shards) * shards
    return StreamBatches(
        store, rows, objective.make_row, size, EVALUATION_SEED, shuffle=False, partner=objective.partner
    )


def preparation(assembly: Assembly) -> Preparation:
    """How the run prepares its data: in this process, with its policy for bad rows."""
    return Preparation(assembly.recipe.data.bad_rows)
