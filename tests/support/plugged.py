"""A plug-in as its author writes it, with its recipe, and how it is forgotten after a test."""

from __future__ import annotations

import pathlib

import pytest

from jaxft.data.sources.added import SOURCES
from jaxft.evaluation.measures import MEASURES
from jaxft.extension import loading
from jaxft.huggingface.architectures import MODEL_TYPES
from jaxft.objectives.registry import METRICS, OBJECTIVES
from jaxft.training.optimizer import OPTIMIZERS

PLUGIN = '''
"""Tells praise from blame by the sign of one number."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft import plugins
from jaxft.data.sources import required_column
from jaxft.data.store import Fields
from jaxft.objectives.objective import Ratio, StreamLoss, count_tokens
from jaxft.objectives.text_task import TextTask


@plugins.source("phrases")
@dataclasses.dataclass(frozen=True)
class Phrases(plugins.AddedSource):
    count: int = 40
    words: tuple[str, ...] = ("good", "bad")

    def rows(self, base_directory):
        for number in range(self.count):
            word = self.words[number % len(self.words)]
            yield {"text": f"a {word} film number {number}", "sign": 1 if word == self.words[0] else -1}


@dataclasses.dataclass(frozen=True)
class HingeConfig(plugins.TextPairConfig):
    kind: Literal["hinge"] = "hinge"
    text: str = "text"
    pair: str | None = None
    sign: str = "sign"
    margin: float = 1.0
    length: int | None = None
    pooling: Literal["first", "last", "mean"] | None = "mean"
    dropout: float = 0.0

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        return {**super().specimen(text, number), self.sign: 1}


@plugins.objective(HingeConfig)
class Hinge(TextTask):
    metrics = default_metrics = ("loss", "accuracy")

    def __init__(self, config, context):
        super().__init__(config, context, 1)

    def fields(self, row):
        return Fields(self.texts(row), {"sign": float(required_column(row, self._config.sign))})

    def record_options(self):
        return f"text={self._config.text} pair={self._config.pair} sign={self._config.sign}"

    def make_row(self, records, keys):
        (record,) = records
        return {**self.text_row(record), "sign": np.float32(record["sign"])}

    def loss(self, apply, batch):
        scores, weights = self.logits(apply, batch)[:, 0, 0], batch["row_weight"]
        losses = jnp.maximum(self._config.margin - batch["sign"] * scores, 0.0)
        hits = (batch["sign"] * scores > 0).astype(jnp.float32)
        ratios = {"accuracy": Ratio((hits * weights).sum(), weights.sum())}
        return StreamLoss((losses * weights).sum(), weights.sum(), count_tokens(batch["segment_ids"]), ratios)

    def outputs(self, apply, batch):
        return {"score": self.logits(apply, batch)[:, 0, 0], "sign": batch["sign"]}

    def predictions(self, records, outputs):
        return [{"score": float(score)} for score in outputs["score"]]


@plugins.metric("mean_margin", objectives=["hinge"])
def mean_margin(evaluated):
    return (evaluated.outputs["score"] * evaluated.outputs["sign"]).mean()


@plugins.optimizer("signs")
def signs(config):
    return optax.scale_by_sign()
'''

RECIPE = """
name: praise
plugins: [mine.py]
model: {preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 32, num_layers: 1, max_length: 32, dropout: 0.0}
tokenizer: {byte_bpe: {vocab_size: 262}}
streams:
  task:
    source: {phrases: {count: 64}}
    objective: {kind: hinge, length: 32}
    batch_size: 16
evaluation:
  held:
    stream: task
    source: {phrases: {count: 20}, limit: 10}
    metrics: [accuracy, mean_margin]
optimizer: {name: signs, learning_rate: 3e-3, weight_decay: 0.0}
training: {steps: 12, evaluate_every: 12}
checkpoint: {best: held.mean_margin}
"""


def write(directory: pathlib.Path, plugin: str = PLUGIN, recipe: str = RECIPE) -> pathlib.Path:
    """The plug-in beside its recipe, whose path is returned."""
    (directory / "mine.py").write_text(plugin)
    path = directory / "praise.yaml"
    path.write_text(f"{recipe}data: {{cache: {directory / 'cache'}}}\n")
    return path


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nothing be loaded until the test ends, when all that plug-ins have added is gone."""
    monkeypatch.setattr(loading, "_state", loading._State())
    for table in (SOURCES, MEASURES, MODEL_TYPES, METRICS, OBJECTIVES, OPTIMIZERS):
        monkeypatch.setattr(table, "_added", {})
