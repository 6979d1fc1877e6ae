"""Llama 2 and 3 (Touvron et al. 2023, arXiv 2307.09288; Grattafiori et al. 2024, arXiv 2407.21783)."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table
from jaxft.models.config import ModelConfig

KEYS = {
    "vocab_size": Key("vocab_size"),
    "embed_dim": Key("hidden_size"),
    "num_layers": Key("num_hidden_layers"),
    "num_heads": Key("num_attention_heads"),
    "mlp_dim": Key("intermediate_size"),
    "max_length": Key("max_position_embeddings"),
    "norm_epsilon": Key("rms_norm_eps", "number", 1e-6),
    "activation": Key("hidden_act", "activation", "silu"),
    "attention_dropout": Key("attention_dropout", "number", 0.0),
    "initializer_range": Key("initializer_range", "number", 0.02),
    "tied_embeddings": Key("tie_word_embeddings", "flag", False),
    "num_kv_heads": Key("num_key_value_heads", default=None),
    "head_dim": Key("head_dim", default=None),
}
BIASES = {
    "attention_bias": Key("attention_bias", "flag", False),
    "mlp_bias": Key("mlp_bias", "flag", False),
}
FIXED = {"family": "decoder", "position": "rotary", "norm": "rmsnorm", "gated": True}
IGNORED = (r".*rotary_emb\.inv_freq",)
TIED = {"lm_head.weight": "{trunk}embed_tokens.weight"}
NORMS = (
    *norm("input_layernorm", "attention_norm", False),
    *norm("post_attention_layernorm", "feed_forward_norm", False),
)


def attention(model: ModelConfig) -> tuple[Tensor, ...]:
    """The four projections, and the norms of queries and keys where there are any."""
    bias = model.attention_bias
    output_bias = bias if model.attention_output_bias is None else model.attention_output_bias
    normed = model.query_key_norm != "none"
    return (
        *into_heads("self_attn.q_proj", "attention/query", bias),
        *into_heads("self_attn.k_proj", "attention/key", bias),
        *into_heads("self_attn.v_proj", "attention/value", bias),
        *from_heads("self_attn.o_proj", "attention/output", output_bias),
        *(norm("self_attn.q_norm", "attention/query_norm", False) if normed else ()),
        *(norm("self_attn.k_norm", "attention/key_norm", False) if normed else ()),
    )


def feed_forward(model: ModelConfig) -> tuple[Tensor, ...]:
    """The three projections of the gated feed-forward."""
    return (
        *linear("mlp.gate_proj", "feed_forward/gate", model.mlp_bias),
        *linear("mlp.up_proj", "feed_forward/input", model.mlp_bias),
        *linear("mlp.down_proj", "feed_forward/output", model.mlp_bias),
    )


def around(model: ModelConfig, layer: tuple[Tensor, ...]) -> tuple[Tensor | Layers, ...]:
    """Embedding, layers, final norm."""
    return (
        *table("embed_tokens", "embeddings/tokens"),
        Layers("layers.{}.", "body/stack", model.num_layers, layer),
        *norm("norm", "body/final_norm", False),
    )


def trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    """Of Llama and of those that differ from it by their configuration alone."""
    return around(model, (*attention(model), *feed_forward(model), *NORMS))


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    return config.rotary()


ARCHITECTURE = Architecture(
    model_types=("llama",),
    prefix="model.",
    keys=KEYS | BIASES,
    fixed=FIXED,
    supported={"pretraining_tp": (1, 2, 4)},
    more=_more,
    less=rotary_keys,
    trunk=trunk,
    classes=decoder_classes("Llama"),
    also=(causal_lm(),),
    ignored=IGNORED,
    tied=TIED,
)
