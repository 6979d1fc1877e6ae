"""How well cosine similarities of sentence vectors agree with people's (STS); measures only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column
from jaxft.data.store import Fields, Record
from jaxft.errors import DataError
from jaxft.objectives.contrastive import Pooling, SentenceVectors
from jaxft.objectives.objective import Apply, Setting, StreamLoss, count_tokens


@dataclasses.dataclass(frozen=True)
class SentenceSimilarityConfig:
    """Sentence similarity in a recipe's evaluation.

    Attributes:
      text: column with a sentence.
      pair: column with another one.
      score: column with how alike they are, a number.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      pooling: a sentence's vector is that of its first or last token or the mean over its tokens.
    """

    kind: Literal["sentence_similarity"] = "sentence_similarity"
    text: str = "sentence1"
    pair: str = "sentence2"
    score: str = "score"
    length: int | None = None
    pooling: Pooling = "mean"


class SentenceSimilarity(SentenceVectors):
    """Compares the cosine similarity of two sentences with a score."""

    trains = False
    metrics = ("spearman", "pearson")
    default_metrics = metrics
    lower_is_better = frozenset()

    def __init__(self, config: SentenceSimilarityConfig, setting: Setting):
        super().__init__(config, setting, {})

    def fields(self, row: Row) -> Fields:
        """The sentences and the score."""
        score = required_column(row, self._config.score)
        try:
            score = float(score)
        except (TypeError, ValueError):
            score = float("nan")
        if not np.isfinite(score):
            raise DataError(f"{row.location}: column {self._config.score!r} must hold a number")
        return Fields(self._texts(row), {"score": score})

    def record_options(self) -> str:
        """The columns."""
        return f"text={self._config.text} pair={self._config.pair} score={self._config.score}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """Two sentences, and `score` float32 `()`."""
        return {**super().make_row(records, keys), "score": np.float32(records[0]["score"])}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Nothing to minimize: sums of zero."""
        return StreamLoss(jnp.float32(0), batch["row_weight"].sum(), count_tokens(batch["segment_ids"]), {})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`similarity` and `score`, float32 `(batch,)`."""
        vectors = self.vectors(apply, batch)
        return {"similarity": (vectors[:, 0] * vectors[:, 1]).sum(-1), "score": batch["score"]}
