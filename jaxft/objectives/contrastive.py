"""Contrastive learning of sentence vectors (SimCSE, Gao et al. 2021, arXiv 2104.08821)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import InvalidField
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.models.heads import HeadConfig, pool
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, Objective, Ratio, Setting, StreamLoss, count_tokens
from jaxft.objectives.rows import side_by_side

Pooling = Literal["first", "mean", "last"]


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Contrastive learning in a recipe.

    Attributes:
      text: column with a sentence.
      pair: column with one that means the same, or None: the sentence itself, under another dropout mask.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      temperature: by which cosine similarities are divided.
      pooling: a sentence's vector is that of its first or last token or the mean over its tokens.
      projection: a hidden layer with tanh on the vector while training, which is left out afterwards.
    """

    kind: Literal["contrastive"] = "contrastive"
    text: str = "text"
    pair: str | None = None
    length: int | None = None
    temperature: float = 0.05
    pooling: Pooling = "mean"
    projection: bool = False

    def __post_init__(self):
        if self.temperature <= 0:
            raise InvalidField("temperature", f"must be positive, found {self.temperature}")


class SentenceVectors(Objective):
    """What objectives on vectors of one or two sentences have in common."""

    families = frozenset({"encoder", "decoder"})
    pack = False
    truncate = True

    def __init__(self, config, setting: Setting, heads: Mapping[str, HeadConfig]):
        super().__init__(config.kind, setting, config.length, heads)
        self._config = config

    def _texts(self, row: Row) -> dict[str, str]:
        columns = {TOKENS: self._config.text, "pair": self._config.pair}
        return {name: text_column(row, column) for name, column in columns.items() if column is not None}

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One sentence twice, or two: `token_ids` and `segment_ids` int32 `(2, length)`."""
        (record,) = records
        texts = (record[TOKENS], record.get("pair", record[TOKENS])[: self.longest])
        return side_by_side(texts, self.length, self.tokenizer)

    def vectors(self, apply: Apply, batch: Mapping[str, jax.Array], head: str | None = None) -> jax.Array:
        """Unit vectors, float32 `(batch, 2, embed)`."""
        rows = {name: batch[name].reshape(-1, self.length) for name in ("token_ids", "segment_ids")}
        output = apply(Sequences(**rows), head=head)
        pooled = output.pooled
        if head is None:
            pooled = pool(output.hidden, rows["segment_ids"], self._config.pooling)
        return unit(pooled.astype(jnp.float32)).reshape(-1, 2, pooled.shape[-1])


class Contrastive(SentenceVectors):
    """Each sentence must find its own second view among those of all sentences of the global batch."""

    whole_batch = True
    augmentable = True
    metrics = ("loss", "accuracy", "alignment", "uniformity")
    default_metrics = metrics
    lower_is_better = frozenset({"loss", "alignment", "uniformity"})

    def __init__(self, config: ContrastiveConfig, setting: Setting):
        shape = HeadConfig("pooled", pooling=config.pooling, transform="tanh")
        super().__init__(config, setting, {"contrastive": shape} if config.projection else {})

    def fields(self, row: Row) -> Fields:
        """The sentences."""
        return Fields(self._texts(row))

    def record_options(self) -> str:
        """The columns."""
        return f"text={self._config.text} pair={self._config.pair}"

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of each sentence's partner among all partners.

        The views are compared as global arrays, so that however a batch is spread over devices, its negatives are all
        other rows.
        """
        vectors = self.vectors(apply, batch, next(iter(self.heads), None))
        scores = vectors[:, 0] @ vectors[:, 1].T / self._config.temperature
        weights = batch["row_weight"]
        # Rows of padding are nobody's negatives.
        scores = jnp.where(weights[None, :] > 0, scores, -1e9)
        labels = jnp.arange(len(scores))
        loss, hits = cross_entropy(scores, labels), is_first(scores, labels)
        tokens = count_tokens(batch["segment_ids"])
        weight = weights.sum()
        return StreamLoss((loss * weights).sum(), weight, tokens, {"accuracy": Ratio((hits * weights).sum(), weight)})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`vectors` float32 `(batch, 2, embed)`, as they are used afterwards."""
        return {"vectors": self.vectors(apply, batch)}


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors of length 1; that of zeros stays, and has a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(-1, keepdims=True), 1e-24))
