"""What a model is (`ModelConfig`) and how it is computed (`ComputeConfig`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from jaxft.errors import InvalidField

ScalingKind = Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
Precision = Literal["float32", "bfloat16"]
# What the backward pass computes again.
Remat = Literal["none", "full", "attention", "dots"]


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """How rotary positions reach beyond the length that a model was pretrained with.

    Attributes:
      kind: `linear` (positions divided by `factor`), `dynamic` (NTK-aware base that grows with the length), `yarn`
        (Peng et al. 2023, arXiv 2309.00071), `llama3` (long waves stretched, short ones kept) or `longrope` (a factor
        per frequency, Ding et al. 2024, arXiv 2402.13753).
      factor: by how much longer.
      original_length: length of pretraining.
      attention_factor: multiplies cosines and sines; None takes the kind's own.
      beta_fast: turns within `original_length` above which `yarn` keeps a frequency.
      beta_slow: turns below which `yarn` stretches it fully.
      truncate: whether `yarn` rounds the bounds between the two.
      low_frequency_factor: of `llama3`: waves longer than `original_length` over this are stretched fully.
      high_frequency_factor: of `llama3`: waves shorter than `original_length` over this are kept.
      short_factors: of `longrope`: divisors of the frequencies up to `original_length`.
      long_factors: those beyond it.
    """

    kind: ScalingKind
    factor: float = 1.0
    original_length: int = 2048
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """In what a block differs from its neighbours.

    Attributes:
      window: tokens seen to each side, 0 for all.
      rotary: whether it turns queries and keys, where positions are rotary.
      attention_norm: whether its attention has a norm before it, where others do.
    """

    window: int = 0
    rotary: bool = True
    attention_norm: bool = True


@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """Consecutive blocks whose parameters are stacked: `repeats` times the same kinds in turn.

    Attributes:
      name: of the group among the stack's parameters.
      start: number of its first block.
      repeats: length of the stacked axis.
      kinds: of the blocks of one repeat.
    """

    name: str
    start: int
    repeats: int
    kinds: tuple[LayerKind, ...]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Transformer of any of the three families, in the field's terms.

    Attributes:
      family: `encoder` (bidirectional), `decoder` (causal), `encoder_decoder`, or `vision` (an encoder of images).
      bidirectional: a decoder that reads both ways (made an encoder by `masked_next_token`).
      vocab_size: rows of the token embedding.
      embed_dim: width of the residual stream.
      embedding_dim: width of the token embedding, projected to `embed_dim` (ALBERT, ELECTRA, OPT); `embed_dim` where
        None.
      embedding_projection: where it is projected: `last`, after positions and norm, with a bias (ALBERT, ELECTRA), or
        `first`, before positions are added, without one (OPT).
      num_layers: blocks of the encoder or of the only stack.
      num_decoder_layers: blocks of the decoder of an encoder-decoder; `num_layers` where None.
      share_layers: all blocks use the same parameters (ALBERT).
      num_heads: query heads.
      num_decoder_heads: query heads in the decoder of an encoder-decoder; `num_heads` where None.
      num_kv_heads: key and value heads (grouped-query attention); `num_heads` where None.
      head_dim: width of a head; `embed_dim // num_heads` where None.
      mlp_dim: width of the feed-forward.
      decoder_mlp_dim: that of the decoder of an encoder-decoder; `mlp_dim` where None.
      max_length: longest sequence, in tokens.
      token_types: kinds of segments with an embedding of their own (BERT: 2); 0 for none.
      position: how positions enter. `relative_bias` is T5's (bidirectional in the encoder), `alibi` a slope per head,
        `disentangled` DeBERTa's attention between content and relative positions, `transformer_xl` XLNet's.
      position_offset: rows of the learned table before the one of position 0 (RoBERTa, OPT, BART: 2).
      learned_positions: a learned table besides what `position` names (MPNet, some DeBERTa).
      rotary_base: wavelength base of rotary positions.
      local_rotary_base: base in layers with a window; `rotary_base` where None (ModernBERT, Gemma 3).
      rotary_fraction: leading share of each head that is rotated.
      rotary_scaling: for sequences longer than those of pretraining; not where a window has a base of its own.
      rotary_layers: per layer whether positions are rotated (SmolLM3); repeated over the layers, all where empty.
      relative_buckets: buckets of the relative bias.
      relative_max_distance: distance from which all share the last bucket.
      convolution: tokens that a convolution beside the first block reads, 0 for none (DeBERTa v2 XL); odd.
      convolution_activation: of that convolution.
      norm: `layernorm` or `rmsnorm`.
      norm_placement: before each sub-layer (`pre`), after its residual (`post`), on both sides of it (`sandwich`), or
        on its output alone before the residual (`output`, OLMo 2).
      norm_epsilon: added to the variance.
      norm_bias: whether layer norms have a bias.
      norm_offset: whether scales are stored as their difference from 1 (Gemma).
      embedding_norm: a norm after the embeddings.
      first_attention_norm: whether the first block has a norm before its attention (not in ModernBERT).
      final_norm: a norm after the last block.
      activation: of the feed-forward; `gelu` is the exact one.
      gated: whether the feed-forward multiplies the activation with a second projection (GLU).
      attention_bias: biases in the four projections of attention.
      attention_output_bias: that of the last of the four; as `attention_bias` where None.
      mlp_bias: biases in the feed-forward.
      query_key_norm: a norm on queries and keys: of each head by itself, or of the whole `projection` (OLMo 2).
      attention_scale: factor of the scores; `head_dim ** -0.5` where None.
      attention_soft_cap: soft cap of the scores.
      logit_soft_cap: soft cap of the vocabulary logits.
      windows: per layer the number of tokens seen to each side, 0 for all; repeated over the layers.
      parallel_residual: attention and feed-forward read the same input (GPT-J, GPT-NeoX).
      tied_embeddings: the vocabulary projection is the token embedding.
      embedding_scale: factor of the token embeddings.
      logit_scale: factor of the hidden states before the vocabulary projection.
      image_size: height and width of images, in pixels.
      patch_size: height and width of the patches that they are cut into.
      channels: of images.
      class_tokens: learned tokens before the patches (ViT: 1; DeiT: 2).
      dropout: rate on embeddings and sub-layer outputs.
      attention_dropout: rate on attention probabilities.
      initializer_range: standard deviation of the initial weights.
    """

    family: Literal["encoder", "decoder", "encoder_decoder", "vision"] = "encoder"
    bidirectional: bool = False
    vocab_size: int = 32000
    embed_dim: int = 256
    embedding_dim: int | None = None
    embedding_projection: Literal["first", "last"] = "last"
    num_layers: int = 4
    num_decoder_layers: int | None = None
    share_layers: bool = False
    num_heads: int = 4
    num_decoder_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int = 1024
    decoder_mlp_dim: int | None = None
    max_length: int = 512
    token_types: int = 0
    position: Literal[
        "learned", "sinusoidal", "rotary", "relative_bias", "alibi", "disentangled", "transformer_xl", "none"
    ] = "rotary"
    position_offset: int = 0
    learned_positions: bool = False
    rotary_base: float = 10000.0
    local_rotary_base: float | None = None
    rotary_fraction: float = 1.0
    rotary_scaling: RotaryScaling | None = None
    rotary_layers: tuple[bool, ...] = ()
    relative_buckets: int = 32
    relative_max_distance: int = 128
    convolution: int = 0
    convolution_activation: Activation = "tanh"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_placement: Literal["pre", "post", "sandwich", "output"] = "pre"
    norm_epsilon: float = 1e-5
    norm_bias: bool = True
    norm_offset: bool = False
    embedding_norm: bool = False
    first_attention_norm: bool = True
    final_norm: bool = True
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated: bool = False
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    mlp_bias: bool = False
    query_key_norm: Literal["none", "head", "projection"] = "none"
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    windows: tuple[int, ...] = ()
    parallel_residual: bool = False
    tied_embeddings: bool = True
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    class_tokens: int = 1
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
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
        if self.bidirectional and self.family != "decoder":
            raise InvalidField("bidirectional", f"makes a decoder read both ways; this is of family {self.family}")
        if self.convolution and self.convolution % 2 == 0:
            raise InvalidField("convolution", f"must be odd, or 0 for none, found {self.convolution}")
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

    @property
    def width_of_embedding(self) -> int:
        """Width of the token embedding."""
        return self.embedding_dim or self.embed_dim

    @property
    def has_learned_positions(self) -> bool:
        """Whether a learned vector per position is added to the embeddings."""
        return self.position == "learned" or self.learned_positions

    def resolved(self) -> ModelConfig:
        """The same model with every width and number said that otherwise follows from others."""
        output_bias = self.attention_bias if self.attention_output_bias is None else self.attention_output_bias
        scale = self.width_of_head**-0.5 if self.attention_scale is None else self.attention_scale
        return dataclasses.replace(
            self,
            num_kv_heads=self.kv_heads,
            head_dim=self.width_of_head,
            embedding_dim=self.width_of_embedding,
            num_decoder_layers=self.decoder_layers,
            num_decoder_heads=self.num_decoder_heads or self.num_heads,
            decoder_mlp_dim=self.decoder_mlp_dim or self.mlp_dim,
            attention_output_bias=output_bias,
            attention_scale=scale,
        )

    def of_decoder(self) -> ModelConfig:
        """The decoder of an encoder-decoder, where its widths differ from those of the encoder."""
        heads = self.num_decoder_heads or self.num_heads
        kv_heads = None if self.num_kv_heads is None else min(self.num_kv_heads, heads)
        return dataclasses.replace(
            self, num_heads=heads, num_kv_heads=kv_heads, mlp_dim=self.decoder_mlp_dim or self.mlp_dim
        )

    def layer_groups(self, num_layers: int) -> tuple[LayerGroup, ...]:
        """How a stack of so many blocks is laid out: groups of like blocks, in order."""
        windows, rotary = self.windows or (0,), self.rotary_layers or (True,)
        kinds = [LayerKind(windows[i % len(windows)], rotary[i % len(rotary)]) for i in range(num_layers)]
        groups, start = [], 0
        if not self.first_attention_norm or self.convolution:
            first = dataclasses.replace(kinds[0], attention_norm=self.first_attention_norm)
            groups.append(LayerGroup("first_layer", 0, 1, (first,)))
            start = 1
        period = math.lcm(len(windows), len(rotary))
        repeats, rest = divmod(num_layers - start, period)
        if repeats:
            groups.append(LayerGroup("layers", start, repeats, tuple(kinds[start : start + period])))
        if rest:
            groups.append(LayerGroup("last_layers", num_layers - rest, 1, tuple(kinds[-rest:])))
        return tuple(groups)


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How a model is computed; it changes no parameter and, beyond rounding, no result.

    Attributes:
      precision: dtype of activations and matrix products. Parameters, norms, softmax and losses are float32.
      attention: name of the attention kernel (`jaxft.kernels.attention`).
      scan_layers: one compiled block in a loop (compile time flat in depth) instead of unrolled blocks (often faster).
      remat: what the backward pass computes again: `none`, `full` blocks, all but what `attention` found (where its
        kernel keeps no scores), or all but that and the `dots`.
      loss_parts: parts of the predicted tokens whose logits over the vocabulary are in memory one after the other.
      reduce_dtype: in which devices add what each found of the gradients of attention's and feed-forwards' kernels, and
        with several `loss_parts` of the vocabulary's head: `bfloat16` halves what they send and the memory for it, for
        one more rounding. The sums are kept in float32.
    """

    precision: Precision = "float32"
    attention: Literal["auto", "reference", "xla", "local", "cudnn", "splash"] = "auto"
    scan_layers: bool = False
    remat: Remat = "none"
    loss_parts: int = 1
    reduce_dtype: Precision = "float32"

    def __post_init__(self) -> None:
        _positive(self, "loss_parts")
        if self.reduce_dtype == "bfloat16" and self.precision != "bfloat16":
            raise InvalidField("reduce_dtype", f"bfloat16 needs precision bfloat16, found {self.precision}")


def _positive(config: ModelConfig | ComputeConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise InvalidField(name, f"must be at least 1, found {getattr(config, name)}")
