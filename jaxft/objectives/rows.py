"""Pieces of text side by side in rows of a fixed length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from jaxft.data.batches import Batch
from jaxft.data.store import Record
from jaxft.data.tokenizers import Tokenizer


def enclose(start_ids: Sequence[int], tokens: np.ndarray, *end_ids: int) -> np.ndarray:
    """Tokens between special ones, int32."""
    return np.concatenate([start_ids, tokens, end_ids]).astype(np.int32)


def lay(pieces: Sequence[np.ndarray], length: int, fill: float = 0, dtype: DTypeLike = np.int32) -> np.ndarray:
    """Pieces one after the other in a row, `(length,)`, the rest filled."""
    row = np.full(length, fill, dtype)
    joined = np.concatenate(pieces)
    row[: len(joined)] = joined
    return row


def lay_out(pieces: Sequence[np.ndarray], length: int, pad_id: int, prefix: str = "") -> Batch:
    """A row of token ids, and what says where its pieces are.

    Args:
      pieces: int32 arrays of tokens, special ones among them.
      length: tokens of the row, at least those of all pieces.
      pad_id: id that fills the row.
      prefix: before the names.

    Returns:
      `token_ids`, `segment_ids` (1, 2, ... and 0 for padding) and `positions` (restarting), int32 `(length,)`.
    """
    sizes = [len(piece) for piece in pieces]
    return {
        f"{prefix}token_ids": lay(pieces, length, pad_id),
        f"{prefix}segment_ids": lay([np.repeat(np.arange(1, len(sizes) + 1), sizes)], length),
        f"{prefix}positions": lay([np.arange(size) for size in sizes], length),
    }


def side_by_side(texts: Sequence[np.ndarray], length: int, tokenizer: Tokenizer) -> Batch:
    """Each text in a row of its own: `token_ids` and `segment_ids` int32 `(texts, length)`."""
    rows = [tokenizer.template.wrap(text) for text in texts]
    return {
        "token_ids": np.stack([lay([row], length, tokenizer.pad_id) for row in rows]),
        "segment_ids": np.stack([lay([np.ones(len(row))], length) for row in rows]),
    }


def starts_of(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Where each of the pieces begins in their row."""
    return np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]


def examples_of(records: Sequence[Record]) -> list[range]:
    """Which records are the pieces of each example, one after the other as they stand in rows.

    Args:
      records: cut (`jaxft.data.store.cut`), all pieces of an example among them.
    """
    begins = [number for number, record in enumerate(records) if record["begins"]]
    return [range(start, stop) for start, stop in zip(begins, [*begins[1:], len(records)], strict=True)]
