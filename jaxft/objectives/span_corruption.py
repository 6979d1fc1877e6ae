"""Span corruption (T5, Raffel et al. 2019, arXiv 1910.10683)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxft.data.store import TOKENS, Record
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.config import TextConfig
from jaxft.objectives.denoising import Pair, SequenceToSequence, sentinels_of
from jaxft.objectives.objective import ObjectiveContext, ReadsText
from jaxft.objectives.rows import enclose


@dataclasses.dataclass(frozen=True)
class SpanCorruptionConfig(TextConfig):
    """Span corruption in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of the encoder's row, special tokens included; the model's `max_length` where None.
      target_length: tokens of the decoder's row; what the longest piece needs where None.
      noise_rate: share of the tokens that is cut out.
      span_length: mean length of what is cut out together.
    """

    kind: Literal["span_corruption"] = "span_corruption"
    text: str = "text"
    length: int | None = None
    target_length: int | None = None
    noise_rate: float = 0.15
    span_length: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.noise_rate < 1:
            raise InvalidField("noise_rate", f"must lie between 0 and 1, found {self.noise_rate}")
        if self.span_length < 1:
            raise InvalidField("span_length", f"must be at least 1, found {self.span_length}")


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much is cut out of a piece, and in how many spans.

    Attributes:
      rate: share of the tokens.
      span_length: mean length of a span; None for a single span at the end (prefix language modelling).
    """

    rate: float
    span_length: float | None

    def counts(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that are cut out and spans, int64, of pieces of these lengths; none of a piece of one token."""
        noise = np.clip(np.round(lengths * self.rate).astype(np.int64), 1, np.maximum(lengths - 1, 0))
        noise = np.minimum(noise, lengths - 1)
        if self.span_length is None:
            return noise, np.minimum(noise, 1)
        spans = np.maximum(np.round(noise / self.span_length).astype(np.int64), 1)
        return noise, np.minimum(spans, np.minimum(noise, lengths - noise))

    def sizes(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of source and target, each with a sentinel for every span and an end token."""
        noise, spans = self.counts(lengths)
        return lengths - noise + spans + 1, noise + spans + 1

    def mask(self, length: int, key: np.random.Generator) -> np.ndarray:
        """What is cut out of a piece, bool `(length,)`.

        Noise and the rest are each split uniformly into as many non-empty parts as there are spans, and interleaved,
        the rest first.
        """
        noise, spans = (int(count) for count in self.counts(np.array(length)))
        if self.span_length is None or not spans:
            return np.arange(length) >= length - noise
        parts = np.empty(2 * spans, np.int64)
        parts[0::2], parts[1::2] = random_parts(length - noise, spans, key), random_parts(noise, spans, key)
        return np.repeat(np.arange(2 * spans) % 2 == 1, parts)


def random_parts(total: int, parts: int, key: np.random.Generator) -> np.ndarray:
    """Lengths of non-empty parts that make up `total`, int64 `(parts,)`; all such splits are equally likely."""
    cuts = np.sort(key.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def replace_spans(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """Tokens with every masked span replaced by the next of the sentinels.

    Args:
      tokens: int32 `(length,)`.
      mask: bool `(length,)`.
      sentinels: int32, at least as many as there are spans.
    """
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    replaced = np.where(starts, sentinels[np.maximum(np.cumsum(starts) - 1, 0)], tokens)
    return replaced[~mask | starts].astype(np.int32)


def cut_out(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, end_id: int) -> Pair:
    """Source and target: each has the tokens of the other as sentinels; the target has no sentinel at its end."""
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    spoken = sentinels[np.maximum(np.cumsum(starts) - 1, 0)]
    target = np.stack([np.where(starts, spoken, -1), np.where(mask, tokens, -1)], axis=1).ravel()
    return enclose((), replace_spans(tokens, mask, sentinels), end_id), enclose((), target[target >= 0], end_id)


def longest_piece(noises: list[Noise], length: int, target_length: int | None) -> int:
    """Tokens of the longest piece whose source and target fit, whichever of the noises it gets; at least 1."""
    sizes = np.arange(1, 4 * length)
    fits = np.ones(len(sizes), bool)
    for noise in noises:
        source, target = noise.sizes(sizes)
        fits &= (source <= length) & (target <= (target_length or length))
    return int(sizes[fits].max(initial=1))


class SpanCorruption(ReadsText, SequenceToSequence):
    """Spans of a text are cut out, each leaving a sentinel, and are to be written by the decoder."""

    def __init__(self, config: SpanCorruptionConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length)
        self._config, self._sentinels = config, sentinels_of(config.kind, context)
        self._noise = Noise(config.noise_rate, config.span_length)
        self._longest = longest_piece([self._noise], self.length, config.target_length)
        spans = int(self._noise.counts(np.array(self._longest))[1])
        if spans > len(self._sentinels):
            raise RecipeError(
                f"objective {config.kind}: rows of {self.length} tokens have {spans} spans, but the tokenizer only "
                f"{len(self._sentinels)} sentinels"
            )
        self.target_length = config.target_length or int(self._noise.sizes(np.array(self._longest))[1])

    @property
    def longest(self) -> int:
        """Tokens of the longest piece that a row can hold, more than its length since spans shrink."""
        return self._longest

    def room(self, lengths: np.ndarray) -> np.ndarray:
        """What pieces take of the encoder's row, or of the decoder's where that is more of it."""
        return room_of([self._noise], lengths, self.length, self.target_length)

    def example(self, record: Record, key: np.random.Generator) -> Pair:
        """Source and target of a piece."""
        tokens = record[TOKENS]
        return cut_out(tokens, self._noise.mask(len(tokens), key), self._sentinels, self.tokenizer.separator_id)


def room_of(noises: list[Noise], lengths: np.ndarray, length: int, target_length: int) -> np.ndarray:
    """What pieces take of rows, in tokens of the encoder's, whichever of the noises they get."""
    rooms = []
    for noise in noises:
        source, target = noise.sizes(np.asarray(lengths, np.int64))
        rooms += [source, -(-target * length // target_length)]
    return np.maximum.reduce(rooms)
