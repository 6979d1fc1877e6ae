"""A row of a batch as a person is shown it: its tokens as text, and what has to be predicted of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class ShownToken:
    """A token of a row.

    Attributes:
      text: as the model reads it.
      segment: number of its document in the row.
      special: whether it is no text.
      predicted: whether it is what the model has to predict, from what stands before it.
      target: what has to be predicted in its place, or None.
    """

    text: str
    segment: int
    special: bool
    predicted: bool = False
    target: str | None = None


@dataclasses.dataclass(frozen=True)
class ShownRow:
    """A row of a batch.

    Attributes:
      parts: tokens without padding, by what they are: `input`, and `target` of an encoder-decoder, say.
      label: what has to be predicted of the whole row, in JSON's terms; None where there is nothing.
    """

    parts: Mapping[str, list[ShownToken]]
    label: Any = None


def shown_tokens(
    row: Mapping[str, np.ndarray],
    tokenizer: Tokenizer,
    targets: Mapping[int, str] | None = None,
    predicted: np.ndarray | None = None,
) -> list[ShownToken]:
    """The tokens of a row.

    Args:
      row: with `token_ids` and `segment_ids`, int32 `(length,)`; padding has segment 0.
      tokenizer: of the run.
      targets: what is to be predicted, by the place of the token in whose place it is.
      predicted: which tokens are what is to be predicted, bool `(length,)`.
    """
    ids, segments, wanted = row["token_ids"].tolist(), row["segment_ids"].tolist(), targets or {}
    marks = np.zeros(len(ids), bool) if predicted is None else predicted
    return [
        ShownToken(text, segment, number in tokenizer.special_ids, bool(marks[place]), wanted.get(place))
        for place, (text, number, segment) in enumerate(zip(tokenizer.tokens(ids), ids, segments, strict=True))
        if segment > 0
    ]


def gathered_targets(row: Batch, tokenizer: Tokenizer) -> dict[int, str]:
    """What is to be predicted in the places of a row that its logits are computed for, by place.

    Args:
      row: with `gather`, `labels` int32 and `label_weights` float32 `(budget,)`.
      tokenizer: of the run.
    """
    used = np.flatnonzero(row["label_weights"] > 0)
    return dict(zip(row["gather"][used].tolist(), tokenizer.tokens(row["labels"][used].tolist()), strict=True))


def next_tokens(row: Batch, tokenizer: Tokenizer) -> list[ShownToken]:
    """Tokens of which each is predicted from those before it, with the ends of documents, which are predicted alone.

    Args:
      row: with `token_ids`, `segment_ids`, `labels` int32 and `label_weights` float32 `(length,)`.
      tokenizer: of the run.
    """
    counts, labels = row["label_weights"] > 0, row["labels"]
    predicted = np.concatenate([[False], counts[:-1]]) & (np.roll(labels, 1) == row["token_ids"])
    tokens = shown_tokens(row, tokenizer, predicted=predicted)
    segments, out = row["segment_ids"], []
    for place, token in enumerate(tokens):
        out.append(token)
        last = place + 1 == len(segments) or segments[place + 1] != segments[place]
        if last and counts[place]:
            (end,) = tokenizer.tokens([int(labels[place])])
            out.append(ShownToken(end, token.segment, True, predicted=True))
    return out


def side_tokens(row: Batch, tokenizer: Tokenizer) -> dict[str, list[ShownToken]]:
    """The texts that stand side by side in a row, as parts.

    Args:
      row: with `token_ids` and `segment_ids`, int32 `(texts, length)`.
      tokenizer: of the run.
    """
    sides = (
        {"token_ids": ids, "segment_ids": segments}
        for ids, segments in zip(row["token_ids"], row["segment_ids"], strict=True)
    )
    return {f"input {number}": shown_tokens(side, tokenizer) for number, side in enumerate(sides, 1)}
