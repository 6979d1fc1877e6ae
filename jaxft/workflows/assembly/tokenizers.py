"""The tokenizer of a run: of an earlier start, a pretrained model, a directory, or trained on the run's texts."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from jaxft.checkpoint.manifest import NAME as MANIFEST
from jaxft.checkpoint.manifest import defect, write_manifest
from jaxft.data.chat import texts_of
from jaxft.data.sources import SourceConfig
from jaxft.data.store import fingerprint_of
from jaxft.data.tokenizers import Tokenizer, TrainingConfig, load_tokenizer, train_tokenizer
from jaxft.errors import DataError
from jaxft.parallel.processes import first_then_others
from jaxft.recipe.schema import Recipe
from jaxft.workflows.assembly.stores import cache_of, fingerprint, good_rows
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.pretrained import Pretrained

_logger = logging.getLogger("jaxft")


def make_tokenizer(
    recipe: Recipe, directory: pathlib.Path, pretrained: Pretrained | None, run: RunDirectory | None
) -> Tokenizer:
    """The tokenizer of a run, which is trained, and kept in the cache, where the recipe says so.

    Args:
      recipe: as decoded.
      directory: that relative paths start from.
      pretrained: where the weights come from, or None.
      run: its directory; where it was started before, its tokenizer is used again.
    """
    if run is not None and run.tokenizer.is_dir():
        return load_tokenizer(run.tokenizer)
    if recipe.tokenizer is None:
        assert pretrained is not None, "the recipe's own check asks for one of them"
        return load_tokenizer(pretrained.tokenizer_directory)
    if recipe.tokenizer.path is not None:
        path = pathlib.Path(recipe.tokenizer.path)
        return load_tokenizer(path if path.exists() or path.is_absolute() else directory / path)
    assert recipe.tokenizer.training is not None
    return _trained_tokenizer(recipe, recipe.tokenizer.training, directory)


def _trained_tokenizer(recipe: Recipe, config: TrainingConfig, directory: pathlib.Path) -> Tokenizer:
    """Trains on the texts of all streams, or finds what an earlier start trained."""
    streams = [(s.source, column) for s in recipe.streams.values() for column in s.objective.text_columns()]
    sources = "+".join(f"{fingerprint(group, directory)}.{column}" for group, column in streams)
    name = fingerprint_of(sources=sources, config=str(config))
    target = cache_of(recipe) / "tokenizers" / name
    with first_then_others():
        if (target / MANIFEST).is_file() and (problem := defect(target)) is not None:
            _logger.warning("the tokenizer %s is trained again: %s", target, problem)
            shutil.rmtree(target)
        if not target.is_dir():
            texts = _texts(recipe, streams)
            partial = target.with_name(f"{name}.{uuid.uuid4().hex[:8]}.partial")
            train_tokenizer(texts, config, partial)
            write_manifest(partial)
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
