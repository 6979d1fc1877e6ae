"""A small encoder with two heads, one for each of two streams: a task that classifies, and a replay of masked words."""

from __future__ import annotations

import numpy as np

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.objectives.masked_lm import MaskedLM
from jaxft.objectives.objective import Objective
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from support.settings import setting_of

VOCABULARY, LENGTH, ROWS = 40, 8, 8
HEADS = frozenset({"task", "masked_lm"})
LABELS = ("a", "b", "c")


class MaskedLMWithoutText(MaskedLM):
    """The objective for batches that are made here: its loss alone, without a tokenizer."""

    kind = "masked_lm"

    def __init__(self):
        self.heads = {"masked_lm": HeadConfig("masked_lm")}


def small_config(**changes) -> ModelConfig:
    """The trunk of most tests; `changes` are of its config."""
    fields = {
        "vocab_size": VOCABULARY,
        "embed_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_dim": 24,
        "max_length": LENGTH,
        "position": "learned",
        "attention_bias": True,
        "mlp_bias": True,
        "activation": "relu",
        "initializer_range": 0.2,
    }
    return ModelConfig(**{**fields, **changes})


def small_model(compute: ComputeConfig | None = None, task_dropout: float = 0.0, **changes) -> Model:
    """It with a head for each objective; `task_dropout` is the rate of the task's."""
    task = HeadConfig("sequence_classification", len(LABELS), dropout=task_dropout)
    heads = (("task", task), ("masked_lm", HeadConfig("masked_lm")))
    return Model(small_config(**changes), heads, compute or ComputeConfig(scan_layers=True))


def objectives(task_dropout: float = 0.0) -> dict[str, Objective]:
    """A task that classifies, and a replay that predicts masked tokens."""
    task = SequenceClassificationConfig(labels=LABELS, dropout=task_dropout)
    return {
        "task": SequenceClassification(task, setting_of(None, LENGTH, "task")),
        "replay": MaskedLMWithoutText(),
    }


def make_batches(seed: int, rows: int = ROWS) -> dict[str, dict[str, np.ndarray]]:
    """A batch of both streams; rows weigh differently, so that means of means would show."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, VOCABULARY, (2, rows, LENGTH)).astype(np.int32)
    segments = (np.arange(LENGTH) < generator.integers(3, LENGTH + 1, (2, rows, 1))).astype(np.int32)
    replay = {
        "token_ids": ids[0],
        "segment_ids": segments[0],
        "positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (rows, LENGTH)),
        "gather": generator.integers(0, 3, (rows, 3)).astype(np.int32),
        "labels": generator.integers(0, VOCABULARY, (rows, 3)).astype(np.int32),
        "label_weights": (generator.random((rows, 3)) < np.linspace(0.2, 1, rows)[:, None]).astype(np.float32),
        "row_weight": np.ones(rows, np.float32),
    }
    task = {
        "token_ids": ids[1],
        "segment_ids": segments[1],
        "token_types": np.zeros_like(ids[1]),
        "label": generator.integers(0, len(LABELS), rows).astype(np.int32),
        "row_weight": (np.arange(rows) < rows - 3).astype(np.float32),
    }
    return {"task": task, "replay": replay}
