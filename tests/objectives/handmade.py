"""What tests of objectives make by hand: records, batches, parameters and models whose logits are given."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from jaxft.data.batches import Batch, example_generator
from jaxft.data.packing import plan_rows
from jaxft.data.sources import Row
from jaxft.data.store import PART_ENDS, TOKENS, Record, cut, encode_fields
from jaxft.data.tokenizers.template import own_template
from jaxft.huggingface.expressing import natural_head
from jaxft.models.config import ModelConfig
from jaxft.models.model import Model, ModelOutput
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, Objective


def without(tokenizer, name: str):
    """The same tokenizer, without one of its special tokens."""
    changed = copy.copy(tokenizer)
    parts = {name: None}
    if name == "start_id":
        parts["template"] = own_template(None, tokenizer.separator_id)
    changed.__class__ = type("Without", (type(tokenizer),), parts)
    return changed


def texts(tokenizer, *sizes: int, seed: int = 0) -> list[np.ndarray]:
    """Random tokens that are not special, int32, of these lengths."""
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids)).astype(np.int32)
    return [np.random.default_rng((seed, i)).choice(ordinary, size) for i, size in enumerate(sizes)]


def record_of(tokens, ends: Sequence[int] | None = None, **fields: Any) -> Record:
    """A whole document, whose parts end at `ends`."""
    parts = {} if ends is None else {PART_ENDS: np.asarray(ends, np.int32)}
    return cut({TOKENS: np.asarray(tokens, np.int32), **parts, **fields}, 0, len(tokens))


def read(objective: Objective, **columns: Any) -> Record:
    """What the token store gives back of a row with these columns."""
    fields = objective.fields(Row(columns, "made:1"))
    encoded = {name: encode_fields([text], objective.tokenizer)[0] for name, text in fields.texts.items()}
    tokens, ends = encoded[TOKENS]
    others = {name: found for name, (found, _) in encoded.items() if name != TOKENS}
    return record_of(tokens, ends, **others, **fields.values)


def row_of(objective: Objective, *records: Record, seed: int = 0) -> Batch:
    """One row of these records."""
    return objective.make_row(list(records), [example_generator(seed, 0, i) for i in range(len(records))])


def stacked(rows: Sequence[Batch], row_weight: Sequence[float] | None = None) -> Batch:
    """A batch of rows."""
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {**batch, "row_weight": np.asarray([1.0] * len(rows) if row_weight is None else row_weight, np.float32)}


def whole_pass(objective: Objective, records: Sequence[Record], *, pack: bool, seed: int = 0) -> Batch:
    """All records in one batch, split and packed as the objective asks; every piece has the same key however packed."""
    lengths = np.array([len(record[TOKENS]) for record in records])
    plan = plan_rows(
        lengths, objective.length, objective.longest, objective.room, pack=pack, truncate=objective.truncate
    )
    rows = []
    for number in range(len(plan)):
        pieces = plan.row(number)
        own = [cut(records[piece.record], piece.start, piece.stop) for piece in pieces]
        rows.append(objective.make_row(own, [example_generator(seed, 0, piece.index) for piece in pieces]))
    return stacked(rows)


def model_for(*objectives: Objective, layers: int = 2, **changes: Any) -> Model:
    """A small model with the heads of these objectives; `changes` are of its config."""
    config = ModelConfig(
        vocab_size=objectives[0].tokenizer.vocab_size,
        embed_dim=32,
        num_layers=layers,
        num_heads=2,
        mlp_dim=48,
        max_length=64,
        token_types=2,
        position="learned",
    )
    config = dataclasses.replace(config, **changes)
    heads = {name: natural_head(name, head, config, None) for one in objectives for name, head in one.heads.items()}
    return Model(config, tuple(heads.items()))


@dataclasses.dataclass(frozen=True)
class Given:
    """A model whose outputs are given by a function of what it reads and of the head that it is asked for."""

    output: Callable[[Sequences, Any], ModelOutput]
    key: jax.Array | None = None

    def __call__(self, sequences, targets=None, head=None, gather=None) -> ModelOutput:
        return self.output(sequences, head)


class Listening(Apply):
    """A bound model that remembers what it was given to read, and what it said."""

    def __init__(self, apply):
        self._apply, self.key, self.heard, self.outputs = apply, apply.key, [], []

    def __call__(self, sequences, targets=None, head=None, gather=None) -> ModelOutput:
        self.heard.append((head, sequences.token_ids))
        self.outputs.append(self._apply(sequences, targets, head, gather))
        return self.outputs[-1]


def assert_drawn(counts: Sequence[int], shares: Sequence[float] | None = None) -> None:
    """These counts are what such shares give, equal ones where none are given, but for one chance in ten thousand."""
    counts = np.asarray(counts)
    expected = None if shares is None else np.asarray(shares) / np.sum(shares) * counts.sum()
    assert (counts.sum() / len(counts) if expected is None else expected.min()) >= 5, "too few draws to tell"
    assert len(counts) == 1 or stats.chisquare(counts, expected).pvalue > 1e-4, counts


def assert_share(hits: int, count: int, share: float) -> None:
    """So many hits are what this share gives, but for one chance in fifteen thousand."""
    assert abs(hits - count * share) <= 4 * np.sqrt(count * share * (1 - share)) + 1e-9, (hits, count * share)


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """First place and length of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, int), [0]])))
    return [(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]
