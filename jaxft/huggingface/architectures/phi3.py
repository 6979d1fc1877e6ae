"""Phi-3 (Abdin et al. 2024, arXiv 2404.14219): Llama with joint projections."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, concatenated, from_heads, joint, linear
from jaxft.models.config import ModelConfig

_LAYER = (
    concatenated(
        "self_attn.qkv_proj.weight", "(heads head_dim) embed -> embed heads head_dim",
        "attention/query/kernel", "attention/key/kernel", "attention/value/kernel",
    ),
    *from_heads("self_attn.o_proj", "attention/output", False),
    joint(
        "mlp.gate_up_proj.weight", "(part mlp) embed -> embed mlp",
        "feed_forward/gate/kernel", "feed_forward/input/kernel",
    ),
    *linear("mlp.down_proj", "feed_forward/output", False),
    *llama.NORMS,
)  # fmt: skip


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return llama.around(model, _LAYER)


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    dropout = config.shared_number("resid_pdrop", "embd_pdrop", 0.0)
    window = config.window_of(config.integer("sliding_window", 0))
    return config.rotary() | {"windows": window, "dropout": dropout}


def _less(model: ModelConfig) -> dict[str, Any]:
    window = model.windows[0] + 1 if model.windows else None
    return llama.rope_keys(model) | {
        "sliding_window": window, "resid_pdrop": model.dropout, "embd_pdrop": model.dropout,
        "partial_rotary_factor": model.rotary_fraction,
    }  # fmt: skip


ARCHITECTURE = Architecture(
    model_types=("phi3",),
    prefix="model.",
    keys=llama.KEYS | {"norm_epsilon": Key("rms_norm_eps", "number", 1e-5)},
    fixed=llama.FIXED,
    more=_more,
    less=_less,
    trunk=_trunk,
    classes=decoder_classes("Phi3"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
