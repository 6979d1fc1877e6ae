"""Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys, window_keys
from jaxft.models.config import ModelConfig


def windows(config: HuggingFaceConfig, first_sliding: int) -> dict[str, Any]:
    """Field `windows` of Qwen: layers from `first_sliding` on have a window, where windows are used at all."""
    if not config.flag("use_sliding_window", False):
        return {"windows": ()}
    layers = config.integer("num_hidden_layers")
    default = ["sliding_attention" if i >= first_sliding else "full_attention" for i in range(layers)]
    return {"windows": config.windows(config.window_width("sliding_window", 4096), default)}


def more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions and windows."""
    return config.rotary() | windows(config, config.integer("max_window_layers", 28))


def less(model: ModelConfig) -> dict[str, Any]:
    """The inverse."""
    windows = {"use_sliding_window": True, **window_keys(model)} if model.windows else {"use_sliding_window": False}
    return rotary_keys(model) | windows


ARCHITECTURE = Architecture(
    model_types=("qwen2",),
    prefix="model.",
    keys=llama.KEYS | {"num_kv_heads": Key("num_key_value_heads", default=32)},
    fixed=llama.FIXED | {"attention_bias": True, "attention_output_bias": False},
    more=more,
    less=less,
    trunk=llama.trunk,
    classes=decoder_classes("Qwen2"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
