"""From the sources of a recipe to token stores and batches."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from jaxft.data.cache import cache_directory
from jaxft.data.packing import RowPlan, plan_rows
from jaxft.data.preparing import Preparation, build, open_or_build
from jaxft.data.sources import Row, SourceConfig, scan_rows, source_fingerprint
from jaxft.data.store import TokenStore, fingerprint_of
from jaxft.data.tokenizers import Tokenizer
from jaxft.data.windows import WindowedPlan
from jaxft.errors import DataError
from jaxft.objectives.objective import Objective
from jaxft.objectives.registry import OBJECTIVES
from jaxft.parallel.processes import first_then_others
from jaxft.recipe.schema import Recipe

_logger = logging.getLogger("jaxft")

# Stores of more records are planned window by window.
LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class StoreSource:
    """What a token store is made of, whether it is there or not.

    Attributes:
      where: what the user calls it: `streams.NAME`, `evaluation.NAME`, with a number where sources are mixed.
      directory: of the store.
      sources: read one after the other.
      base: directory that relative paths start from.
      objective: says what to keep of a row.
      tokenizer: of the texts.
    """

    where: str
    directory: pathlib.Path
    sources: tuple[SourceConfig, ...]
    base: pathlib.Path
    objective: Objective
    tokenizer: Tokenizer

    @property
    def exists(self) -> bool:
        """Whether the store is there."""
        return (self.directory / "store.json").is_file()

    def open(self, how: Preparation) -> TokenStore:
        """The store, built if it is not there.

        Raises:
          DataError: see `jaxft.data.preparing.open_or_build`.
        """
        # Whether it is there is each process's own affair: they may not share a file system.
        with first_then_others():
            return open_or_build(
                self.directory, self.rows, self.objective.fields, self.tokenizer, self.where, how, self.change
            )

    def build(self, how: Preparation) -> bool:
        """Makes a part of the store; whether it is whole then."""
        return build(self.directory, self.rows, self.objective.fields, self.tokenizer, self.where, how, self.change)

    def rows(self) -> Iterator[Any]:
        """What it is made of, from the start: rows, and errors in place of those that cannot be read."""
        return _scanned(self.sources, self.base)

    def change(self, batch: list[Any]) -> list[Row | DataError]:
        """What becomes of some of these before they are tokenized."""
        return batch


def store_source(
    where: str, sources: tuple[SourceConfig, ...], objective: Objective, recipe: Recipe, tokenizer: Tokenizer
) -> StoreSource:
    """The store of these sources in the recipe's cache, named by all that its content depends on."""
    base, policy = base_of(recipe), recipe.data.bad_rows.policy
    plugin = OBJECTIVES.plugin(objective.kind)
    name = fingerprint_of(
        source=fingerprint(sources, base),
        tokenizer=tokenizer.fingerprint,
        options=f"{objective.kind} {objective.record_options()}",
        **({} if plugin is None else {"plugin": plugin.digest}),
        # A store without bad rows is the same under every policy, but only `raise` promises that there are none.
        **({} if policy == "raise" else {"bad_rows": policy}),
    )
    return StoreSource(where, cache_of(recipe) / "stores" / name, sources, base, objective, tokenizer)


def base_of(recipe: Recipe) -> pathlib.Path:
    """Where relative paths of a resolved recipe's sources start."""
    assert recipe.data.directory is not None
    return pathlib.Path(recipe.data.directory)


def cache_of(recipe: Recipe) -> pathlib.Path:
    """Where the recipe keeps what it prepares."""
    return pathlib.Path(recipe.data.cache) if recipe.data.cache else cache_directory()


def fingerprint(sources: Iterable[SourceConfig], base: pathlib.Path) -> str:
    """What several sources hold and how they are read."""
    return "+".join(source_fingerprint(source, base) for source in sources)


def good_rows(sources: Iterable[SourceConfig], recipe: Recipe) -> Iterator[Row]:
    """The rows of sources, without those that the recipe's policy lets be skipped.

    Raises:
      DataError: a bad row under the policy `raise`.
    """
    for row in _scanned(tuple(sources), base_of(recipe)):
        if isinstance(row, Row):
            yield row
        elif recipe.data.bad_rows.policy == "raise":
            raise row


def _scanned(sources: tuple[SourceConfig, ...], base: pathlib.Path) -> Iterator[Row | DataError]:
    return itertools.chain.from_iterable(scan_rows(source, base) for source in sources)


def plan(where: str, store: TokenStore, objective: Objective, seed: int) -> RowPlan | WindowedPlan:
    """The rows that an objective makes of a store.

    Raises:
      DataError: a store of one document, where the objective needs others.
    """
    if objective.partner and len(store) < 2:
        raise DataError(f"{where}: objective {objective.kind} needs at least two documents, found {len(store)}")
    longest = objective.longest
    if objective.truncate and (cut := int((store.lengths > longest).sum())):
        _logger.warning(
            "%s: %d of %d texts are longer than %d tokens and were cut (the longest has %d)",
            where,
            cut,
            len(store),
            longest,
            int(store.lengths.max()),
        )
    if store.bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(store.bad.items()))
        _logger.warning(
            "%s: %d of %d rows are bad and left out: %s", where, sum(store.bad.values()), store.rows, reasons
        )
    windowed = len(store) > LARGE and not (objective.pack and objective.truncate)
    return (WindowedPlan if windowed else plan_rows)(
        store.lengths,
        objective.length,
        longest,
        objective.room,
        pack=objective.pack,
        truncate=objective.truncate,
        overlap=objective.overlap,
        seed=seed,
    )
