"""Heads on the trunk, each from hidden states to logits."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.kernels.projection import project
from jaxft.models.blocks import make_norm
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Dropout, Linear, activate
from jaxft.models.transformer import Sequences


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A head by its field name.

    Attributes:
      kind: `masked_lm` (BERT's transform, then the vocabulary), `causal_lm` (the vocabulary alone) or
        `sequence_classification` (pooling, a dense layer, labels).
      num_labels: outputs of a classifier.
      pooling: a sequence's vector is that of its first token or the mean over its tokens.
      dropout: rate before the last projection of a classifier.
    """

    kind: Literal["masked_lm", "causal_lm", "sequence_classification"]
    num_labels: int = 0
    pooling: Literal["first", "mean"] = "first"
    dropout: float = 0.1


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
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """Float32 logits `(..., vocab)` from `(..., embed)` and the token embedding `(vocab, embed)`."""
        config = self.config
        x = x * config.logit_scale
        if config.tied_embeddings:
            logits = project(x, table.T, 1, jnp.dtype(self.compute.precision))
        else:
            logits = Linear(
                (config.vocab_size,), ("embed",), ("vocab",), dtype=jnp.dtype(self.compute.precision),
                initializer_range=config.initializer_range, name="vocabulary",
            )(x)  # fmt: skip
        logits = logits.astype(jnp.float32)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            logits = logits + self.param("bias", zeros, (config.vocab_size,), jnp.float32)
        cap = config.logit_soft_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


class MaskedLanguageModelHead(nn.Module):
    """BERT's head: a dense layer, activation and norm, then the vocabulary with a bias (Devlin et al. 2018)."""

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        config = self.config
        x = Linear(
            (config.embed_dim,), ("embed",), ("features",), True, jnp.dtype(self.compute.precision),
            config.initializer_range, name="transform",
        )(x)  # fmt: skip
        x = make_norm(config, self.compute, "norm")(activate(config.activation, x))
        return VocabularyProjection(config, self.compute, use_bias=True, name="projection")(x, table)


class SequenceClassificationHead(nn.Module):
    """Pools a sequence, then a dense layer with tanh, dropout and the labels (BERT's pooler and classifier)."""

    config: ModelConfig
    compute: ComputeConfig
    head: HeadConfig

    @nn.compact
    def __call__(self, x: jax.Array, sequences: Sequences) -> jax.Array:
        """Float32 logits `(batch, labels)` from hidden states `(batch, length, embed)` of unpacked sequences."""
        config = self.config
        if self.head.pooling == "mean":
            segments = sequences.segment_ids
            real = jnp.ones(x.shape[:2], x.dtype) if segments is None else (segments > 0).astype(x.dtype)
            pooled = jnp.einsum("ble,bl->be", x, real) / jnp.maximum(real.sum(1, keepdims=True), 1)
        else:
            pooled = x[:, 0]
        linear = {
            "use_bias": True,
            "dtype": jnp.dtype(self.compute.precision),
            "initializer_range": config.initializer_range,
        }
        pooled = activate(
            "tanh", Linear((config.embed_dim,), ("embed",), ("features",), **linear, name="pooler")(pooled)
        )
        pooled = Dropout(self.head.dropout)(pooled)
        logits = Linear((self.head.num_labels,), ("embed",), ("labels",), **linear, name="classifier")(pooled)
        return logits.astype(jnp.float32)
