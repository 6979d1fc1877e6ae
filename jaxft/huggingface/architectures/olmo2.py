"""OLMo 2 (arXiv 2501.00656): norms on the output of each sub-layer, and on whole queries and keys."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys
from jaxft.huggingface.layout import Layers, Tensor, norm
from jaxft.models.config import ModelConfig

_NORMS = (
    *norm("post_attention_layernorm", "attention_output_norm", False),
    *norm("post_feedforward_layernorm", "feed_forward_output_norm", False),
)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return llama.around(model, (*llama.attention(model), *llama.feed_forward(model), *_NORMS))


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    return config.rotary()


ARCHITECTURE = Architecture(
    model_types=("olmo2",),
    prefix="model.",
    keys=llama.KEYS
    | {
        "attention_bias": llama.BIASES["attention_bias"],
        "norm_epsilon": Key("rms_norm_eps", "number", 1e-5),
    },
    fixed=llama.FIXED | {"norm_placement": "output", "query_key_norm": "projection"},
    more=_more,
    less=rotary_keys,
    trunk=_trunk,
    classes=decoder_classes("Olmo2"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
