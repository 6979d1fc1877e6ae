"""Gemma 2 (arXiv 2408.00118): sandwich norms, soft caps, windows in every second layer."""

from __future__ import annotations

import math
from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys, window_keys
from jaxft.huggingface.layout import Layers, Tensor, norm
from jaxft.models.config import ModelConfig

KEYS = llama.KEYS | {
    "activation": Key("hidden_activation", "activation", "gelu_pytorch_tanh"),
    "attention_bias": llama.BIASES["attention_bias"],
    "num_kv_heads": Key("num_key_value_heads", default=4),
    "head_dim": Key("head_dim", default=256),
    "tied_embeddings": Key("tie_word_embeddings", "flag", True),
}
FIXED = llama.FIXED | {"norm_placement": "sandwich", "norm_offset": True}
_NORMS = (
    *norm("input_layernorm", "attention_norm", False),
    *norm("post_attention_layernorm", "attention_output_norm", False),
    *norm("pre_feedforward_layernorm", "feed_forward_norm", False),
    *norm("post_feedforward_layernorm", "feed_forward_output_norm", False),
)


def trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    """Of Gemma 2 and 3."""
    return llama.around(model, (*llama.attention(model), *llama.feed_forward(model), *_NORMS))


def scales(
    config: HuggingFaceConfig,
    fields: dict[str, Any],
    attention_cap: float | None = None,
    logit_cap: float | None = None,
) -> dict[str, Any]:
    """Soft caps, where a missing key is the given one, the scale of the scores and that of the embedding."""
    return {
        "embedding_scale": math.sqrt(fields["embed_dim"]),
        "attention_scale": config.positive("query_pre_attn_scalar", 256) ** -0.5,
        "attention_soft_cap": _cap(config, "attn_logit_softcapping", attention_cap),
        "logit_soft_cap": _cap(config, "final_logit_softcapping", logit_cap),
    }


def _cap(config: HuggingFaceConfig, key: str, default: float | None) -> float | None:
    # An explicit null is no cap; a missing key is the default of the class.
    if key not in config.values:
        return default
    return config.number(key, 0.0) or None


def less(model: ModelConfig) -> dict[str, Any]:
    """The inverse, of Gemma 2 and 3."""
    scale = model.width_of_head**-0.5 if model.attention_scale is None else model.attention_scale
    # The class takes whole numbers only.
    scalar = round(scale**-2)
    return (
        rotary_keys(model)
        | window_keys(model)
        | {
            "query_pre_attn_scalar": scalar if scalar**-0.5 == scale else scale**-2,
            "attn_logit_softcapping": model.attention_soft_cap,
            "final_logit_softcapping": model.logit_soft_cap,
        }
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    types = ["full_attention" if i % 2 else "sliding_attention" for i in range(fields["num_layers"])]
    windows = config.windows(config.window_width("sliding_window", 4096), types)
    return scales(config, fields, 50.0, 30.0) | config.rotary() | {"windows": windows}


ARCHITECTURE = Architecture(
    model_types=("gemma2",),
    prefix="model.",
    keys=KEYS,
    fixed=FIXED,
    supported={"use_bidirectional_attention": (None, False)},
    more=_more,
    less=less,
    trunk=trunk,
    classes=decoder_classes("Gemma2"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
