"""Prompts of different lengths as batches of few shapes, checked on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxft.errors import DataError
from jaxft.generation.config import SpecialTokens
from jaxft.generation.decoder import Prompts
from jaxft.models.config import ModelConfig
from jaxft.parallel.mesh import batch_shards
from jaxft.parallel.sharding import put_whole_batch

_SMALLEST = 16


def bucket(length: int, smallest: int = _SMALLEST) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that is no smaller, so that few shapes are compiled.

    Args:
      length: to be reached.
      smallest: the first of the sizes, a power of two.
    """
    power = smallest
    while power < length:
        power *= 2
    three_quarters = 3 * power // 4
    return three_quarters if three_quarters >= max(length, smallest) else power


def context_of(config: ModelConfig) -> int | None:
    """Most tokens that a decoder can have before it, or None where its positions have no end."""
    if config.position in ("relative_bias", "alibi", "none") and not config.learned_positions:
        return None
    scaling = config.rotary_scaling
    if scaling is not None and scaling.kind == "dynamic":
        return int(config.max_length * scaling.factor)
    return config.max_length


@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """Prompts that are written on together.

    Attributes:
      numbers: of the prompts, in the order of the rows; rows after them fill the batch.
      prompts: the arrays, `(rows, length)`.
      limits: int32 `(rows,)`: most tokens of prompt and text.
      slots: room in the cache.
    """

    numbers: tuple[int, ...]
    prompts: Prompts
    limits: jax.Array | np.ndarray
    slots: int


def check_prompts(prompts: Sequence[np.ndarray], config: ModelConfig, special: SpecialTokens) -> None:
    """Raises DataError for a prompt that is empty, too long for the model, or has ids outside of its vocabulary."""
    has_encoder = config.family == "encoder_decoder"
    context = context_of(config)
    for number, prompt in enumerate(prompts, 1):
        if not len(prompt):
            raise DataError(f"prompt {number} is empty; give it at least one token")
        low, high = int(np.min(prompt)), int(np.max(prompt))
        if low < 0 or high >= config.vocab_size:
            wrong = low if low < 0 else high
            raise DataError(f"prompt {number}: token id {wrong} is outside of the vocabulary of {config.vocab_size}")
        most = None if context is None else context if has_encoder else context - 1
        if most is not None and len(prompt) > most:
            room = "" if has_encoder else ", which leaves no room to write"
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens, the model's context is {context}{room}; shorten the prompt"
            )
    if has_encoder and not special.start:
        raise DataError("the model doesn't say with which token its decoder starts")


def check_room(prompts: Sequence[np.ndarray], config: ModelConfig, special: SpecialTokens, needed: int) -> None:
    """Raises DataError for a prompt after which the model's context has no room for `needed` tokens."""
    context = context_of(config)
    for number, prompt in enumerate(prompts, 1):
        read = len(special.start) if config.family == "encoder_decoder" else len(prompt)
        if context is not None and read + needed > context:
            raise DataError(
                f"prompt {number} has {read} tokens, which leaves {context - read} of the model's context of "
                f"{context}; the shortest text that the constraint allows has {needed}"
            )


def batches_of(
    prompts: Sequence[np.ndarray],
    config: ModelConfig,
    special: SpecialTokens,
    max_new_tokens: Sequence[int],
    batch_size: int,
    mesh: jax.sharding.Mesh | None,
    smallest: int = 1,
) -> Iterator[PromptBatch]:
    """Batches of prompts of like lengths, each with its own number of tokens to write."""
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = tuple(int(number) for number in order[start : start + batch_size])
        room = [max_new_tokens[number] for number in numbers]
        yield _batch([prompts[number] for number in numbers], numbers, config, special, room, mesh, smallest)


def _batch(
    rows: Sequence[np.ndarray],
    numbers: tuple[int, ...],
    config: ModelConfig,
    special: SpecialTokens,
    room: Sequence[int],
    mesh: jax.sharding.Mesh | None,
    smallest: int,
) -> PromptBatch:
    has_encoder = config.family == "encoder_decoder"
    read = [np.asarray(special.start, np.int32)] * len(rows) if has_encoder else rows
    lengths = [len(row) for row in read]
    context = context_of(config)
    limits = [
        length + new if context is None else min(length + new, context)
        for length, new in zip(lengths, room, strict=True)
    ]
    count = bucket(len(rows), smallest)
    if mesh is not None:
        count = -(-count // batch_shards(mesh)) * batch_shards(mesh)
    width = max(lengths) if has_encoder else bucket(max(lengths))
    # Rows that fill the batch are copies of the first that have no room to write.
    more = count - len(rows)
    arrays = {
        "token_ids": padded([*read, *[read[0]] * more], width, special.pad),
        "lengths": np.asarray([*lengths, *[lengths[0]] * more], np.int32),
        "numbers": np.asarray([*numbers, *[-1] * more], np.int32),
    }
    if has_encoder:
        arrays["source_ids"] = padded([*rows, *[rows[0]] * more], bucket(max(map(len, rows))), special.pad)
        arrays["source_lengths"] = np.asarray([len(row) for row in [*rows, *[rows[0]] * more]], np.int32)
    arrays["limits"] = np.asarray([*limits, *[lengths[0]] * more], np.int32)
    placed = arrays if mesh is None else put_whole_batch(arrays, mesh)
    limit = placed.pop("limits")
    return PromptBatch(numbers, Prompts(**placed), limit, max(width, bucket(max(limits))))


def padded(rows: Sequence[np.ndarray], width: int, pad: int) -> np.ndarray:
    """Rows of ids as one array, int32 `(rows, width)`, filled up at their ends."""
    result = np.full((len(rows), width), pad, np.int32)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return result
