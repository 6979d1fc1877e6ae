"""Heads on the trunk, each from hidden states to logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.shapes import Array, Hidden, OfTokens
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Dropout, Linear, activate, make_norm, partitioned

HeadKind = Literal[
    "masked_lm",
    "causal_lm",
    "sequence_classification",
    "multiple_choice",
    "token_classification",
    "question_answering",
    "pooled",
    "generator",
]
PoolingKind = Literal["first", "second", "mean", "last"]
Transform = Literal["none", "tanh", "gelu", "gelu_tanh", "relu", "silu"]


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A head by its field name.

    Attributes:
      kind: `masked_lm` (BERT's transform, then the vocabulary), `causal_lm` (the vocabulary alone),
        `sequence_classification` (pooling, a hidden layer, labels), `multiple_choice` (the same with one label, the
        score of a choice), `token_classification` (labels of every token: also whether it
        was replaced), `question_answering` (for every token, whether an answer starts and whether it ends there),
        `pooled` (a vector for the sequence) or `generator` (a smaller masked language model on the trunk's embeddings,
        ELECTRA's; see `jaxft.models.generator`).
      num_labels: outputs of a classifier.
      pooling: a sequence's vector is that of its first, second or last token, or the mean over its tokens; None where
        it is still to be chosen as the trunk's architecture has it.
      transform: activation of the hidden layer before the labels; `none` for no such layer.
      transform_bias: whether the hidden layer has a bias.
      transform_norm: whether a norm follows it.
      label_bias: whether the labels have a bias.
      vocabulary_bias: whether each token of `causal_lm` has a bias; those of `masked_lm` have.
      activation: of the transform of `masked_lm`; the model's own where None.
      dropout: rate before the last projection of a classifier.
      size: width of a generator as a share of the trunk's.
    """

    kind: HeadKind
    num_labels: int = 0
    pooling: PoolingKind | None = "first"
    transform: Transform = "tanh"
    transform_bias: bool = True
    transform_norm: bool = False
    label_bias: bool = True
    vocabulary_bias: bool = False
    activation: str | None = None
    dropout: float = 0.1
    size: float = 1.0


class VocabularyProjection(nn.Module):
    """Logits over the vocabulary, by the embedding table where tied.

    Attributes:
      config: the model.
      use_bias: whether each token has a bias.
    """

    config: ModelConfig
    compute: ComputeConfig
    use_bias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*places embedding"], attend: Callable[[jax.Array], jax.Array]
    ) -> Float[Array, "*places vocab"]:
        """Float32 logits `(..., vocab)` from `(..., embedding)`, by `attend` where the embedding is tied."""
        config = self.config
        x = x * config.logit_scale
        if config.tied_embeddings:
            logits = attend(x)
        else:
            logits = Linear(
                (config.vocab_size,),
                ("embed",),
                ("vocab",),
                dtype=jnp.dtype(self.compute.precision),
                initializer_range=config.initializer_range,
                name="vocabulary",
            )(x)
        if logits.dtype != jnp.float32:
            # Or the compiler keeps them in float32 as well, as the product sums them, at twice their size.
            logits = jax.lax.optimization_barrier(logits)
        logits = logits.astype(jnp.float32)
        if self.use_bias:
            zeros = partitioned(nn.initializers.zeros, ("vocab",))
            logits = logits + self.param("bias", zeros, (config.vocab_size,), jnp.float32)
        cap = config.logit_soft_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


class MaskedLanguageModelHead(nn.Module):
    """BERT's head: a dense layer, activation and norm, then the vocabulary with a bias (Devlin et al. 2018)."""

    config: ModelConfig
    compute: ComputeConfig
    head: HeadConfig = HeadConfig("masked_lm")

    @nn.compact
    def __call__(
        self, x: Float[Array, "*places embed"], attend: Callable[[jax.Array], jax.Array]
    ) -> Float[Array, "*places vocab"]:
        """Float32 logits `(..., vocab)` from `(..., embed)`, by `attend` where the embedding is tied."""
        config = self.config
        x = Linear(
            (config.width_of_embedding,),
            ("embed",),
            ("features",),
            self.head.transform_bias,
            jnp.dtype(self.compute.precision),
            config.initializer_range,
            name="transform",
        )(x)
        x = make_norm(config, self.compute, "norm")(activate(self.head.activation or config.activation, x))
        return VocabularyProjection(config, self.compute, use_bias=True, name="projection")(x, attend)


class LabelHead(nn.Module):
    """Labels of sequences or tokens: an optional hidden layer (BERT's pooler), dropout, a projection."""

    config: ModelConfig
    compute: ComputeConfig
    head: HeadConfig

    @nn.compact
    def __call__(self, x: Hidden, segment_ids: OfTokens | None) -> Float[Array, "batch ..."]:
        """From hidden states `(batch, length, embed)`.

        Args:
          x: hidden states; of unpacked sequences where they are pooled.
          segment_ids: int32 `(batch, length)`, 0 for padding; None where nothing is padded.

        Returns:
          Float32 logits `(batch, labels)` of sequences or `(batch, length, labels)` of tokens; without labels, vectors
          `(batch, embed)`.
        """
        head = self.head
        if head.kind not in ("token_classification", "question_answering"):
            x = pool(x, segment_ids, head.pooling)
        if head.transform != "none":
            pooler = self._linear("pooler", self.config.embed_dim, "features", head.transform_bias)
            x = activate(head.transform, pooler(x))
        if head.transform_norm:
            x = make_norm(self.config, self.compute, "norm")(x)
        if head.kind == "pooled":
            return x
        x = Dropout(head.dropout)(x)
        return self._linear("classifier", head.num_labels, "labels", head.label_bias)(x).astype(jnp.float32)

    def _linear(self, name: str, features: int, axis: str, use_bias: bool) -> Linear:
        return Linear(
            (features,),
            ("embed",),
            (axis,),
            use_bias,
            jnp.dtype(self.compute.precision),
            self.config.initializer_range,
            name=name,
        )


def pool(x: Hidden, segment_ids: OfTokens | None, pooling: str | None) -> Float[Array, "batch embed"]:
    """A vector for each unpacked sequence.

    Args:
      x: hidden states `(batch, length, embed)`.
      segment_ids: int32 `(batch, length)`, 0 for padding; None where nothing is padded.
      pooling: as in `HeadConfig`.

    Returns:
      `(batch, embed)`.
    """
    if pooling in ("first", "second"):
        return x[:, ("first", "second").index(pooling)]
    real = jnp.ones(x.shape[:2], x.dtype) if segment_ids is None else (segment_ids > 0).astype(x.dtype)
    if pooling == "mean":
        return jnp.einsum("ble,bl->be", x, real) / jnp.maximum(real.sum(1, keepdims=True), 1)
    last = x.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)
    return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
