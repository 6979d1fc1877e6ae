"""What a model is (`ModelConfig`) and how it is computed (`ComputeConfig`)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxft.errors import InvalidField


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Transformer of any of the three families, in the field's terms.

    Attributes:
      family: `encoder` (bidirectional), `decoder` (causal) or `encoder_decoder`.
      vocab_size: rows of the token embedding.
      embed_dim: width of the residual stream.
      num_layers: blocks of the encoder or of the only stack.
      num_decoder_layers: blocks of the decoder of an encoder-decoder; `num_layers` where None.
      num_heads: query heads.
      num_kv_heads: key and value heads (grouped-query attention); `num_heads` where None.
      head_dim: width of a head; `embed_dim // num_heads` where None.
      mlp_dim: width of the feed-forward.
      max_length: longest sequence, in tokens.
      token_types: kinds of segments with an embedding of their own (BERT: 2); 0 for none.
      position: how positions enter. `relative_bias` is T5's (bidirectional in the encoder), `alibi` a slope per head.
      rotary_base: wavelength base of rotary positions.
      local_rotary_base: base in layers with a window; `rotary_base` where None (ModernBERT, Gemma 3).
      rotary_fraction: leading share of each head that is rotated.
      relative_buckets: buckets of the relative bias.
      relative_max_distance: distance from which all share the last bucket.
      norm: `layernorm` or `rmsnorm`.
      norm_placement: before each sub-layer (`pre`), after its residual (`post`) or on both sides of it (`sandwich`).
      norm_epsilon: added to the variance.
      norm_bias: whether layer norms have a bias.
      norm_offset: whether scales are stored as their difference from 1 (Gemma).
      embedding_norm: a norm after the embeddings.
      final_norm: a norm after the last block.
      activation: of the feed-forward; `gelu` is the exact one.
      gated: whether the feed-forward multiplies the activation with a second projection (GLU).
      attention_bias: biases in the four projections of attention.
      mlp_bias: biases in the feed-forward.
      query_key_norm: a norm on each head's queries and keys.
      attention_scale: factor of the scores; `head_dim ** -0.5` where None.
      attention_soft_cap: soft cap of the scores.
      logit_soft_cap: soft cap of the vocabulary logits.
      windows: per layer the number of tokens seen to each side, 0 for all; repeated over the layers.
      parallel_residual: attention and feed-forward read the same input (GPT-J, GPT-NeoX).
      tied_embeddings: the vocabulary projection is the token embedding.
      embedding_scale: factor of the token embeddings.
      logit_scale: factor of the hidden states before the vocabulary projection.
      dropout: rate on embeddings and sub-layer outputs.
      attention_dropout: rate on attention probabilities.
      initializer_range: standard deviation of the initial weights.
    """

    family: Literal["encoder", "decoder", "encoder_decoder"] = "encoder"
    vocab_size: int = 32000
    embed_dim: int = 256
    num_layers: int = 4
    num_decoder_layers: int | None = None
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int = 1024
    max_length: int = 512
    token_types: int = 0
    position: Literal["learned", "sinusoidal", "rotary", "relative_bias", "alibi", "none"] = "rotary"
    rotary_base: float = 10000.0
    local_rotary_base: float | None = None
    rotary_fraction: float = 1.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    norm_epsilon: float = 1e-5
    norm_bias: bool = True
    norm_offset: bool = False
    embedding_norm: bool = False
    final_norm: bool = True
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    windows: tuple[int, ...] = ()
    parallel_residual: bool = False
    tied_embeddings: bool = True
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self):
        _positive(
            self, "vocab_size", "embed_dim", "num_layers", "num_heads", "mlp_dim", "max_length", "relative_buckets"
        )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidField(name, f"must be in [0, 1), found {getattr(self, name)}")
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise InvalidField(
                "num_heads",
                f"{self.num_heads} does not divide embed_dim {self.embed_dim}; set head_dim or another number",
            )
        if self.num_heads % self.kv_heads:
            raise InvalidField("num_kv_heads", f"{self.num_kv_heads} does not divide num_heads {self.num_heads}")
        if self.position == "rotary" and self.rotary_dim % 2:
            raise InvalidField(
                "head_dim", f"rotary positions need an even number of rotated dimensions, found {self.rotary_dim}"
            )
        if any(window < 0 for window in self.windows):
            raise InvalidField("windows", f"must not be negative (0 is no window), found {list(self.windows)}")

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def width_of_head(self) -> int:
        """Width of one head."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of each head that rotary positions turn."""
        return int(self.width_of_head * self.rotary_fraction)

    @property
    def decoder_layers(self) -> int:
        """Blocks of the decoder of an encoder-decoder."""
        return self.num_decoder_layers or self.num_layers


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How a model is computed; it changes no parameter and, beyond rounding, no result.

    Attributes:
      precision: dtype of activations and matrix products. Parameters, norms, softmax and losses are float32.
      attention: name of the attention kernel.
      scan_layers: one compiled block in a loop (compile time flat in depth) instead of unrolled blocks (often faster).
      remat: what the backward pass computes again: `none`, `full` blocks, or all but the `dots`.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "reference", "xla"] = "auto"
    scan_layers: bool = False
    remat: Literal["none", "full", "dots"] = "none"


def _positive(config, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise InvalidField(name, f"must be at least 1, found {getattr(config, name)}")
