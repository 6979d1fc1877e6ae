"""Gemma 3, the text models (arXiv 2503.19786): a rotary base of their own in layers with a window."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import gemma2, llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.models.config import ModelConfig


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    pattern = config.integer("sliding_window_pattern", 6, least=1)
    types = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(fields["num_layers"])]
    windows = config.windows(config.window_width("sliding_window", 4096), types)
    local = config.positive("rope_local_base_freq", 10000.0)
    if config.get("rope_parameters", None, dict) is not None:
        # The one set of older files is that of the other layers.
        local = config.local_rotary_base("rope_local_base_freq")
    return (
        gemma2.scales(config, fields)
        | config.rotary("full_attention", 1000000.0)
        | {"windows": windows, "local_rotary_base": local}
    )


def _less(model: ModelConfig) -> dict[str, Any]:
    local = model.rotary_base if model.local_rotary_base is None else model.local_rotary_base
    return gemma2.less(model) | {"rope_local_base_freq": local}


ARCHITECTURE = Architecture(
    model_types=("gemma3_text",),
    prefix="model.",
    keys=gemma2.KEYS,
    fixed=gemma2.FIXED | {"query_key_norm": "head"},
    supported={"use_bidirectional_attention": (False, None)},
    more=_more,
    less=_less,
    trunk=gemma2.trunk,
    classes=decoder_classes("Gemma3Text") | {"Gemma3ForCausalLM": (causal_lm(),)},
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
