"""How well cosine similarities of sentence vectors agree with people's (STS), to be trained or measured alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row
from jaxft.data.store import Fields, Record
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.shapes import Array, Scalar
from jaxft.objectives.config import Pooling, SentenceConfig
from jaxft.objectives.contrastive import SentenceVectors
from jaxft.objectives.objective import Apply, FoundInData, ObjectiveContext, StreamLoss, count_tokens
from jaxft.objectives.regression import number_column


@dataclasses.dataclass(frozen=True)
class SentenceSimilarityConfig(FoundInData, SentenceConfig):
    """Sentence similarity in a recipe.

    Attributes:
      text: column with a sentence.
      pair: column with another one.
      score: column with how alike they are, a number.
      loss: `cosine` is the squared difference of the cosine and the score's share of `highest`; `cosent` compares all
        pairs of a batch with each other, of which the one with the higher score must have the larger cosine (Su 2022).
      highest: score of what means the same; the highest of the training data where None.
      scale: of `cosent`: factor of the differences of cosines.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      pooling: a sentence's vector is that of its first or last token or the mean over its tokens.
    """

    kind: Literal["sentence_similarity"] = "sentence_similarity"
    text: str = "sentence1"
    pair: str = "sentence2"
    score: str = "score"
    loss: Literal["cosine", "cosent"] = "cosine"
    highest: float | None = None
    scale: float = 20.0
    length: int | None = None
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        for name in ("highest", "scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidField(name, f"must be positive, found {value}")

    @property
    def is_complete(self) -> bool:
        """Whether the highest score is known, where it is needed."""
        return self.highest is not None or self.loss == "cosent"

    def target_of(self, row: Row) -> float:
        """The score of a row."""
        return number_column(row, self.score)

    def completed(self, targets: Iterable[float], where: str) -> SentenceSimilarityConfig:
        """With the highest score."""
        highest = max(targets, default=None)
        if highest is None or highest <= 0:
            found = "no examples" if highest is None else f"no score above 0, the highest is {highest}"
            raise DataError(f"{where}: column {self.score!r} holds {found}; say with objective.highest what is alike")
        return dataclasses.replace(self, highest=highest)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """With the row's number as its score."""
        return {**super().specimen(text, number), self.score: float(number)}


class SentenceSimilarity(SentenceVectors):
    """Compares the cosine similarity of two sentences with a score."""

    _config: SentenceSimilarityConfig
    metrics = ("spearman", "pearson", "loss")
    default_metrics = metrics
    lower_is_better = frozenset({"loss"})

    def __init__(self, config: SentenceSimilarityConfig, context: ObjectiveContext):
        super().__init__(config, context, {})
        self.whole_batch = config.loss == "cosent"

    def fields(self, row: Row) -> Fields:
        """The sentences and the score."""
        return Fields(self._texts(row), {"score": self._config.target_of(row)})

    def unlabelled_fields(self, row: Row) -> Fields:
        """The sentences."""
        return Fields(self._texts(row), {"score": 0.0})

    def record_options(self) -> str:
        """The columns."""
        return f"text={self._config.text} pair={self._config.pair} score={self._config.score}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """Two sentences, and `score` float32 `()`."""
        return {**super().make_row(records, keys), "score": np.array(records[0]["score"], np.float32)}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """The loss that the config names, one weight for each pair."""
        similarity, weights = self._similarity(apply, batch), batch["row_weight"]
        if self._config.loss == "cosent":
            loss = cosent(similarity, batch["score"], weights, self._config.scale) * weights.sum()
        else:
            assert self._config.highest is not None  # as it is complete
            loss = (jnp.square(similarity - batch["score"] / self._config.highest) * weights).sum()
        return StreamLoss(loss, weights.sum(), count_tokens(batch["segment_ids"]), {})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`similarity` and `score`, float32 `(batch,)`."""
        return {"similarity": self._similarity(apply, batch), "score": batch["score"]}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`similarity` of the two sentences, a cosine."""
        return [{"similarity": round(float(similarity), 6)} for similarity in outputs["similarity"]]

    def _similarity(self, apply: Apply, batch: Mapping[str, jax.Array]) -> Float[Array, " batch"]:
        vectors = self.vectors(apply, batch)
        return (vectors[:, 0] * vectors[:, 1]).sum(-1)


def cosent(
    similarity: Float[Array, " batch"], score: Float[Array, " batch"], weights: Float[Array, " batch"], scale: float
) -> Scalar:
    """Logarithm of 1 plus the sum, over all two rows of different scores, of `exp(scale * excess)`, where the excess is
    by how much the row of the lower score is the more similar one.

    Args:
      similarity: float32 `(batch,)`.
      score: float32 `(batch,)`.
      weights: float32 `(batch,)`, 0 for rows that are none.
      scale: of the differences.
    """
    differences = scale * (similarity[:, None] - similarity[None, :])
    ordered = (score[:, None] < score[None, :]) & (weights[:, None] * weights[None, :] > 0)
    return jax.nn.logsumexp(jnp.append(jnp.where(ordered, differences, -1e9).ravel(), 0.0))
