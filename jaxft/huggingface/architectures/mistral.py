"""Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama with a sliding window."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys
from jaxft.models.config import ModelConfig


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    # An explicit null is no window; a missing key is the default of the first release.
    window = config.integer("sliding_window", 0) if "sliding_window" in config.values else 4096
    return config.rotary() | {"windows": config.window_of(window)}


def _less(model: ModelConfig) -> dict[str, Any]:
    return rotary_keys(model) | {"sliding_window": model.windows[0] + 1 if model.windows else None}


ARCHITECTURE = Architecture(
    model_types=("mistral",),
    prefix="model.",
    keys=llama.KEYS | {"num_kv_heads": Key("num_key_value_heads", default=8)},
    fixed=llama.FIXED,
    more=_more,
    less=_less,
    trunk=llama.trunk,
    classes=decoder_classes("Mistral"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
