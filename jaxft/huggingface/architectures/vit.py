"""ViT (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures.heads import pooled, sequence_labels
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, tensor
from jaxft.models.config import ModelConfig

KEYS = {
    "embed_dim": Key("hidden_size"),
    "num_layers": Key("num_hidden_layers"),
    "num_heads": Key("num_attention_heads"),
    "mlp_dim": Key("intermediate_size"),
    "image_size": Key("image_size"),
    "patch_size": Key("patch_size"),
    "channels": Key("num_channels", default=3),
    "attention_bias": Key("qkv_bias", "flag", True),
    "norm_epsilon": Key("layer_norm_eps", "number", 1e-12),
    "activation": Key("hidden_act", "activation", "gelu"),
    "dropout": Key("hidden_dropout_prob", "number", 0.0),
    "attention_dropout": Key("attention_probs_dropout_prob", "number", 0.0),
    "initializer_range": Key("initializer_range", "number", 0.02),
}
FIXED = {"family": "vision", "position": "none", "attention_output_bias": True, "mlp_bias": True, "vocab_size": 1}
# Names of transformers 5 in memory; its files keep those of earlier releases.
RENAMED = (
    (r"(^|\.)layers\.(\d+)\.attention\.q_proj", r"\1encoder.layer.\2.attention.attention.query"),
    (r"(^|\.)layers\.(\d+)\.attention\.k_proj", r"\1encoder.layer.\2.attention.attention.key"),
    (r"(^|\.)layers\.(\d+)\.attention\.v_proj", r"\1encoder.layer.\2.attention.attention.value"),
    (r"(^|\.)layers\.(\d+)\.attention\.o_proj", r"\1encoder.layer.\2.attention.output.dense"),
    (r"(^|\.)layers\.(\d+)\.mlp\.fc1", r"\1encoder.layer.\2.intermediate.dense"),
    (r"(^|\.)layers\.(\d+)\.mlp\.fc2", r"\1encoder.layer.\2.output.dense"),
    (r"(^|\.)layers\.(\d+)\.layernorm", r"\1encoder.layer.\2.layernorm"),
)
POOLER = "{trunk}pooler.dense"


def _layer(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *norm("layernorm_before", "attention_norm"),
        *into_heads("attention.attention.query", "attention/query", model.attention_bias),
        *into_heads("attention.attention.key", "attention/key", model.attention_bias),
        *into_heads("attention.attention.value", "attention/value", model.attention_bias),
        *from_heads("attention.output.dense", "attention/output"),
        *norm("layernorm_after", "feed_forward_norm"),
        *linear("intermediate.dense", "feed_forward/input"),
        *linear("output.dense", "feed_forward/output"),
    )


def trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    """Of ViT and, with its second class token, DeiT."""
    patch = {"height": model.patch_size, "width": model.patch_size}
    names = ("cls_token", "distillation_token")[: model.class_tokens]
    one = {"first": 1, "second": 1}
    return (
        tensor(
            "embeddings.patch_embeddings.projection.weight",
            "embeddings/patches/kernel",
            "embed channels height width -> (channels height width) embed",
            **patch,
        ),
        tensor("embeddings.patch_embeddings.projection.bias", "embeddings/patches/bias", "embed"),
        *(
            tensor(f"embeddings.{name}", "embeddings/class_tokens/table", "first second embed -> embed", row, **one)
            for row, name in enumerate(names)
        ),
        tensor(
            "embeddings.position_embeddings",
            "embeddings/positions/table",
            "first positions embed -> positions embed",
            first=1,
        ),
        Layers("encoder.layer.{}.", "body/stack", model.num_layers, _layer(model)),
        *norm("layernorm", "body/final_norm"),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    if fields["image_size"] % fields["patch_size"]:
        raise config.unsupported("patch_size", fields["patch_size"], [f"a divisor of {fields['image_size']}"])
    return {}


ARCHITECTURE = Architecture(
    model_types=("vit",),
    prefix="vit.",
    keys=KEYS,
    fixed=FIXED,
    supported={"pooler_act": ("tanh",)},
    more=_more,
    trunk=trunk,
    classes={
        "ViTModel": (pooled(POOLER),),
        "ViTForImageClassification": (sequence_labels("classifier"),),
    },
    also=(pooled(POOLER),),
    renamed=RENAMED,
)
