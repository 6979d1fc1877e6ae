"""ELECTRA's generator (Clark et al. 2020, arXiv 2003.10555): a smaller masked language model on shared embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.shapes import Array
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig, MaskedLanguageModelHead
from jaxft.models.layers import Linear
from jaxft.models.transformer import Sequences, Side


def generator_config(config: ModelConfig, size: float) -> ModelConfig:
    """The generator of a trunk: as deep, `size` times as wide, with heads of the same width."""
    heads = max(1, round(config.num_heads * size))
    return dataclasses.replace(
        config,
        embed_dim=heads * config.width_of_head,
        embedding_dim=config.width_of_embedding,
        num_heads=heads,
        num_kv_heads=None,
        head_dim=config.width_of_head,
        mlp_dim=max(1, round(config.mlp_dim * size)),
    )


class ReplacementGenerator(nn.Module):
    """Projection, blocks and masked-LM head of a generator.

    Attributes:
      config: the trunk whose embeddings it reads.
      compute: how it is computed.
      head: its size.
    """

    config: ModelConfig
    compute: ComputeConfig
    head: HeadConfig

    def setup(self) -> None:
        config = generator_config(self.config, self.head.size)
        self.projection = Linear(
            (config.embed_dim,),
            ("features",),
            ("embed",),
            True,
            jnp.dtype(self.compute.precision),
            config.initializer_range,
        )
        self.body = Side(config, self.compute, config.num_layers, causal=False)
        self.masked_lm = MaskedLanguageModelHead(config, self.compute, self.head)

    def __call__(
        self, embedded: Float[Array, "batch length features"], sequences: Sequences
    ) -> Float[Array, "batch length generator"]:
        """Hidden states `(batch, length, generator)` from the trunk's embeddings before their last projection."""
        return self.body(self.projection(embedded), sequences)

    def logits(
        self, hidden: Float[Array, "*places generator"], attend: Callable[[jax.Array], jax.Array]
    ) -> Float[Array, "*places vocab"]:
        """Float32 logits `(..., vocab)`, by the projection onto the trunk's token embedding."""
        return self.masked_lm(hidden, attend)
