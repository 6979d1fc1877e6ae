"""FLOPs of training by formula: those that a model asks for, whatever a program spends beyond them.

As in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): a multiplication and an addition for each parameter of
a matrix and token, and for each pair of tokens that attention compares, three times over for the backward pass. What
is computed twice to save memory does not count, nor what a mask hides. Look-ups, norms and activations are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from jaxft.models.config import ModelConfig
from jaxft.models.generator import generator_config
from jaxft.models.heads import HeadConfig


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass through a model.

    Attributes:
      rows: sequences or images.
      length: tokens or patches of each, of the encoder's in an encoder-decoder.
      target_length: tokens of each that the decoder of an encoder-decoder reads, else 0.
      places: tokens of each whose logits are computed, where that is not all of them.
      heads: that are read.
      causal: whether the only stack reads from left to right.
      prefix: whether some of its tokens are read both ways all the same.
      streams: 2 where queries follow the content in a stream of their own (XLNet), else 1.
      trained: whether gradients flow back through it.
      in_parts: whether only sums of losses of tokens are asked of it, whose logits may be there for a part at a time.
    """

    rows: int
    length: int
    target_length: int = 0
    places: int | None = None
    heads: tuple[HeadConfig, ...] = ()
    causal: bool = False
    prefix: bool = False
    streams: int = 1
    trained: bool = True
    in_parts: bool = False

    @property
    def tokens(self) -> int:
        """Places for tokens, of both sides."""
        return self.rows * (self.length + self.target_length)


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of a pass or a step.

    Attributes:
      layers: of the projections and feed-forwards of all layers, and of the embeddings' projections.
      attention: of scores and mixtures.
      heads: of what reads the hidden states.
    """

    layers: float = 0.0
    attention: float = 0.0
    heads: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.attention + self.heads

    def times(self, factor: float) -> Flops:
        """Each of them times a factor."""
        return Flops(self.layers * factor, self.attention * factor, self.heads * factor)


def training_flops(config: ModelConfig, passes: Iterable[Pass], masked: bool = True) -> Flops:
    """FLOPs of a step that makes these passes, forward and backward.

    Args:
      config: the trunk.
      passes: of all streams.
      masked: whether pairs of tokens that a causal mask or a window hides are left out, as a kernel can that knows the
        mask; else a program computes and discards them.
    """
    found = [forward_flops(config, one, masked).times(3 if one.trained else 1) for one in passes]
    return Flops(*(sum(getattr(flops, part) for flops in found) for part in ("layers", "attention", "heads")))


def forward_flops(config: ModelConfig, one: Pass, masked: bool = True) -> Flops:
    """FLOPs of a forward pass; arguments as of `training_flops`."""
    generator = next((head for head in one.heads if head.kind == "generator"), None)
    if generator is not None:
        return _generator_flops(config, one, generator, masked)
    per_row = _side(config, config.num_layers, one.length, one.causal, one.streams, masked)
    if config.family == "encoder_decoder":
        decoder = _side(config.of_decoder(), config.decoder_layers, one.target_length, True, 1, masked)
        per_row = _added(per_row, decoder, _across(config, one.length, one.target_length))
    read = one.target_length or one.length
    heads = sum(_head(config, head, one.places or read, read) for head in one.heads)
    embedded = (one.length + one.target_length) * _embedding_projection(config)
    return _added(per_row, Flops(layers=embedded, heads=heads)).times(one.rows)


def _added(*parts: Flops) -> Flops:
    return Flops(sum(one.layers for one in parts), sum(one.attention for one in parts), sum(one.heads for one in parts))


def _side(config: ModelConfig, layers: int, length: int, causal: bool, streams: int, masked: bool) -> Flops:
    """Of one row through a stack of blocks without cross attention."""
    width, inner = config.embed_dim, config.num_heads * config.width_of_head
    keys = config.kv_heads * config.width_of_head
    queries = length * streams
    own = queries * 2 * width * 2 * inner + length * 2 * width * 2 * keys
    own += queries * 2 * _feed_forward_matrices(config) * width * config.mlp_dim
    windows = config.windows or (0,)
    seen = sum(_attended(length, causal, windows[layer % len(windows)], masked) for layer in range(layers))
    return Flops(layers=layers * own, attention=4.0 * inner * queries * seen)


def _feed_forward_matrices(config: ModelConfig) -> int:
    return 3 if config.gated else 2


def _attended(length: int, causal: bool, window: int, masked: bool) -> float:
    """Keys that a query sees in a layer, in the mean over the queries of a row that is one piece of text."""
    if not masked:
        return length
    if window and window < length:
        # The queries within a window's width of an edge see less by the part of the window beyond it.
        one_side = window - window * (window + 1) / 2 / length
        return 1 + one_side * (1 if causal else 2)
    return length / 2 if causal else length


def _across(config: ModelConfig, source: int, target: int) -> Flops:
    """Of one row through the cross attention of all layers of a decoder."""
    decoder = config.of_decoder()
    width, inner = config.embed_dim, decoder.num_heads * decoder.width_of_head
    keys = decoder.kv_heads * decoder.width_of_head
    projected = target * 2 * width * 2 * inner + source * 2 * width * 2 * keys
    return Flops(
        layers=config.decoder_layers * projected, attention=config.decoder_layers * 4.0 * inner * target * source
    )


def _embedding_projection(config: ModelConfig) -> float:
    """For each token, of what leads from the embeddings to the width of the trunk."""
    if config.family == "vision":
        return 2.0 * config.channels * config.patch_size**2 * config.embed_dim
    same = config.width_of_embedding == config.embed_dim
    return 0.0 if same else 2.0 * config.width_of_embedding * config.embed_dim


def _head(config: ModelConfig, head: HeadConfig, places: int, length: int) -> float:
    """Of one row."""
    width, embedding = config.embed_dim, config.width_of_embedding
    vocabulary = 2.0 * embedding * config.vocab_size
    if head.kind == "causal_lm":
        return places * vocabulary
    if head.kind == "masked_lm":
        return places * (2.0 * width * embedding + vocabulary)
    hidden = 0.0 if head.transform == "none" else 2.0 * width * width
    labels = 0.0 if head.kind == "pooled" else 2.0 * width * head.num_labels
    read = length if head.kind in ("token_classification", "question_answering") else 1
    return read * (hidden + labels)


def _generator_flops(config: ModelConfig, one: Pass, head: HeadConfig, masked: bool) -> Flops:
    """Of ELECTRA's generator, which runs in place of the trunk."""
    small = generator_config(config, head.size)
    side = _side(small, small.num_layers, one.length, False, 1, masked)
    read = _head(small, HeadConfig("masked_lm"), one.places or one.length, one.length)
    projected = one.length * 2.0 * config.width_of_embedding * small.embed_dim
    return _added(side, Flops(layers=projected, heads=read)).times(one.rows)
