"""Contrastive learning of sentence vectors (SimCSE, Gao et al. 2021, arXiv 2104.08821), with hard negatives or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import InvalidField
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.kernels.shapes import Array
from jaxft.models.heads import HeadConfig, pool
from jaxft.models.transformer import Sequences
from jaxft.objectives.config import Pooling, SentenceConfig
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.rows import side_by_side
from jaxft.objectives.shown import ShownRow, side_tokens

_PAIR, _NEGATIVE = "pair", "negative"
# Of a record whose sentence is not to be compared with another.
_ALONE = "alone"


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig(SentenceConfig):
    """Contrastive learning in a recipe.

    Attributes:
      text: column with a sentence.
      pair: column with one that means the same, or None: the sentence itself, under another dropout mask.
      negative: column with one that seems to mean the same and does not, or None. It is a candidate beside the pairs of
        the whole batch (multiple negatives ranking, Henderson et al. 2017, arXiv 1705.00652).
      loss: `softmax` has each sentence find its pair among all candidates; `triplet` has it nearer to its pair than to
        its negative by a margin (Schroff et al. 2015, arXiv 1503.03832).
      margin: of `triplet`, in cosine similarity.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      temperature: by which cosine similarities are divided.
      pooling: a sentence's vector is that of its first or last token or the mean over its tokens.
      projection: a hidden layer with tanh on the vector while training, which is left out afterwards.
    """

    kind: Literal["contrastive"] = "contrastive"
    text: str = "text"
    pair: str | None = None
    negative: str | None = None
    loss: Literal["softmax", "triplet"] = "softmax"
    margin: float = 0.5
    length: int | None = None
    temperature: float = 0.05
    pooling: Pooling = "mean"
    projection: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InvalidField("temperature", f"must be positive, found {self.temperature}")
        if not 0 < self.margin <= 2:
            raise InvalidField("margin", f"must lie between 0 and 2, found {self.margin}")
        if self.negative is not None and self.pair is None:
            raise InvalidField("negative", "is for pairs; name the column of the other one with pair")
        if self.loss == "triplet" and self.negative is None:
            raise InvalidField("loss", "triplet needs the column of the negatives; name it with negative")

    def text_columns(self) -> tuple[str, ...]:
        """The sentence, its pair and its negative."""
        return super().text_columns() + (() if self.negative is None else (self.negative,))


class SentenceVectors(Objective):
    """What objectives on vectors of one or several sentences have in common."""

    families = frozenset({"encoder", "decoder"})
    pack = False
    truncate = True
    predicts = True

    def __init__(self, config: SentenceConfig, context: ObjectiveContext, heads: Mapping[str, HeadConfig]):
        super().__init__(config.kind, context, config.length, heads)
        self._config = config

    def _texts(self, row: Row) -> dict[str, str]:
        columns = {TOKENS: self._config.text, _PAIR: self._config.pair, _NEGATIVE: self._negative}
        return {name: text_column(row, column) for name, column in columns.items() if column is not None}

    @property
    def _negative(self) -> str | None:
        return None

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """The sentences of an example, one of them twice where it is alone, unless it is to be predicted: `token_ids`
        and `segment_ids` int32 `(sentences, length)`."""
        (record,) = records
        texts = [record[TOKENS], *(record[name][: self.longest] for name in (_PAIR, _NEGATIVE) if name in record)]
        if len(texts) == 1 and _ALONE not in record:
            texts *= 2
        return side_by_side(texts, self.length, self.tokenizer)

    def shown(self, row: Batch) -> ShownRow:
        """The sentences of an example."""
        return ShownRow(side_tokens(row, self.tokenizer))

    def vectors(
        self, apply: Apply, batch: Mapping[str, jax.Array], head: str | None = None
    ) -> Float[Array, "batch sentences embed"]:
        """Unit vectors, float32 `(batch, sentences, embed)`."""
        ids, segments = (batch[name].reshape(-1, self.length) for name in ("token_ids", "segment_ids"))
        output = apply(Sequences(ids, segments, padded=True), head=head)
        pooled = pool(output.hidden, segments, self._config.pooling) if head is None else output.pooled
        assert pooled is not None  # as the head is one that pools
        return unit(pooled.astype(jnp.float32)).reshape(-1, batch["token_ids"].shape[1], pooled.shape[-1])


class Contrastive(SentenceVectors):
    """Each sentence must find its own second view among those of all sentences of the global batch."""

    _config: ContrastiveConfig
    augmentable = True
    # The last ones find the second sentence of each pair among those of all pairs.
    metrics = (
        "loss", "accuracy", "alignment", "uniformity", "mrr", "recall_at_1", "recall_at_5", "recall_at_10",
        "ndcg_at_10", "map",
    )  # fmt: skip
    default_metrics = metrics[:4]
    lower_is_better = frozenset({"loss", "alignment", "uniformity"})

    def __init__(self, config: ContrastiveConfig, context: ObjectiveContext):
        shape = HeadConfig("pooled", pooling=config.pooling, transform="tanh")
        super().__init__(config, context, {"contrastive": shape} if config.projection else {})
        self.whole_batch = config.loss == "softmax"

    @property
    def _negative(self) -> str | None:
        return self._config.negative

    def fields(self, row: Row) -> Fields:
        """The sentences."""
        return Fields(self._texts(row))

    def unlabelled_fields(self, row: Row) -> Fields:
        """The sentence alone."""
        return Fields({TOKENS: text_column(row, self._config.text)}, {_ALONE: 1})

    def record_options(self) -> str:
        """The columns."""
        config = self._config
        negative = "" if config.negative is None else f" negative={config.negative}"
        return f"text={config.text} pair={config.pair}{negative}"

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of each sentence's partner among all candidates, or the hinge of each triplet.

        The views are compared as global arrays, so that however a batch is spread over devices, its negatives are all
        other rows.
        """
        vectors, weights = self.vectors(apply, batch, next(iter(self.heads), None)), batch["row_weight"]
        losses, hits = (self._triplets if self._config.loss == "triplet" else self._candidates)(vectors, weights)
        weight, tokens = weights.sum(), count_tokens(batch["segment_ids"])
        return StreamLoss((losses * weights).sum(), weight, tokens, {"accuracy": Ratio((hits * weights).sum(), weight)})

    def _candidates(
        self, vectors: Float[Array, "batch sentences embed"], weights: Float[Array, " batch"]
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """Loss and whether the partner is first, of each row; `vectors` `(batch, 2 or 3, embed)`."""
        candidates = vectors[:, 1:].swapaxes(0, 1).reshape(-1, vectors.shape[-1])
        scores = vectors[:, 0] @ candidates.T / self._config.temperature
        # Rows of padding are nobody's negatives.
        scores = jnp.where(jnp.tile(weights, vectors.shape[1] - 1)[None, :] > 0, scores, -1e9)
        labels = jnp.arange(len(scores))
        return cross_entropy(scores, labels), is_first(scores, labels)

    def _triplets(
        self, vectors: Float[Array, "batch 3 embed"], weights: Float[Array, " batch"]
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """As `_candidates`; the only candidates are a row's own."""
        near, far = (jnp.einsum("be,be->b", vectors[:, 0], vectors[:, other]) for other in (1, 2))
        return jnp.maximum(far - near + self._config.margin, 0.0), (near > far).astype(jnp.float32)

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`vectors` float32 `(batch, sentences, embed)`, as they are used afterwards."""
        return {"vectors": self.vectors(apply, batch)}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`vector`, of length 1, of the first sentence."""
        return [{"vector": [round(float(x), 6) for x in vectors[0]]} for vectors in outputs["vectors"]]


def unit(vectors: Float[Array, "*places embed"]) -> Float[Array, "*places embed"]:
    """Vectors of length 1; that of zeros stays, and has a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(-1, keepdims=True), 1e-24))
