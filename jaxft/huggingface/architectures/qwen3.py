"""Qwen 3 (arXiv 2505.09388): Llama with norms on queries and keys."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama, qwen2
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import Key

ARCHITECTURE = Architecture(
    model_types=("qwen3",),
    prefix="model.",
    keys=llama.KEYS
    | {
        "attention_bias": llama.BIASES["attention_bias"],
        "num_kv_heads": Key("num_key_value_heads", default=32),
        "head_dim": Key("head_dim", default=128),
    },
    fixed=llama.FIXED | {"query_key_norm": "head"},
    more=qwen2.more,
    less=qwen2.less,
    trunk=llama.trunk,
    classes=decoder_classes("Qwen3"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
