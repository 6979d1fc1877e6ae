"""Training a tokenizer from files."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources import read_rows, resolve_paths, source_of_file, text_column
from jaxft.data.tokenizers import ByteBPEConfig, SentencePieceConfig, WordPieceConfig
from jaxft.data.tokenizers import train_tokenizer as train
from jaxft.errors import InvalidField, RecipeError

_KINDS = {"wordpiece": WordPieceConfig, "byte_bpe": ByteBPEConfig}


def train_tokenizer(
    files: Sequence[str], output: str | pathlib.Path, column: str = "text", **options: Any
) -> dict[str, Any]:
    """Trains a tokenizer on the texts of files.

    Args:
      files: whose names tell their formats (`jaxft.data.sources.source_of_file`).
      output: directory to write.
      column: of the text where the files have columns.
      **options: `model_type` (`unigram`, `bpe`, `wordpiece`, `byte_bpe`) and fields of its config.

    Returns:
      `output`, `vocab_size` and `characters_per_token` on the texts that it was trained on.

    Raises:
      RecipeError: an option is impossible, or a file or the output cannot be used.
      DataError: a file is malformed, or too small for the vocabulary.
    """
    kind = _KINDS.get(options.get("model_type", ""), SentencePieceConfig)
    if kind is not SentencePieceConfig:
        del options["model_type"]
    if unknown := options.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise RecipeError(f"--{sorted(unknown)[0].replace('_', '-')}: not for a vocabulary of kind {kind.__name__}")
    try:
        config = kind(**options)
    except InvalidField as error:
        raise RecipeError(f"--{error.field.replace('_', '-')}: {error.problem}") from error
    here = pathlib.Path()
    sources = [source_of_file(name) for name in files]
    for source in sources:
        resolve_paths(source, here)

    def texts() -> Iterator[str]:
        rows = itertools.chain.from_iterable(read_rows(source, here) for source in sources)
        return (text_column(row, "text" if row.values.keys() == {"text"} else column) for row in rows)

    try:
        tokenizer = train(texts(), config, pathlib.Path(output))
    except OSError as error:
        raise RecipeError(f"--output {output} cannot be written: {error.strerror}") from error
    sample = list(itertools.islice(texts(), 10_000))
    tokens = sum(map(len, tokenizer.encode(sample)))
    return {
        "output": str(output),
        "vocab_size": tokenizer.vocab_size,
        "characters_per_token": sum(map(len, sample)) / max(tokens, 1),
    }
