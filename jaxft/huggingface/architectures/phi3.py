"""Phi-3 (Abdin et al. 2024, arXiv 2404.14219): Llama with joint projections."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys
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
    rotary = config.rotary(partial=True, default_original=4096)
    scaling = rotary["rotary_scaling"]
    if scaling is not None and scaling.kind != "longrope":
        # The class knows no other; by "yarn" it means longrope too, as early files of Phi-3 did.
        raise config.unsupported("rope_type", scaling.kind, ["default", "longrope"])
    dropout = config.shared_number("resid_pdrop", "embd_pdrop", 0.0)
    window = config.window_of(config.integer("sliding_window", 0))
    return rotary | {"windows": window, "dropout": dropout}


def _less(model: ModelConfig) -> dict[str, Any]:
    window, scaling = model.windows[0] + 1 if model.windows else None, model.rotary_scaling
    # The class prefers this key to the one among those of the scaling.
    original = {} if scaling is None else {"original_max_position_embeddings": scaling.original_length}
    return (
        rotary_keys(model)
        | original
        | {
            "sliding_window": window,
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "partial_rotary_factor": model.rotary_fraction,
        }
    )


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
