"""SmolLM3 (Hugging Face 2025): Llama with layers that do not rotate."""

from __future__ import annotations

from typing import Any

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import llama, qwen2
from jaxft.huggingface.architectures.heads import causal_lm, decoder_classes
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, shortest_period
from jaxft.models.config import ModelConfig


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    layers, interval = fields["num_layers"], config.integer("no_rope_layer_interval", 4, least=1)
    rotated = config.get("no_rope_layers", [int((i + 1) % interval != 0) for i in range(layers)], list)
    if len(rotated) < layers:
        raise CheckpointError(f"{config.source}: no_rope_layers names {len(rotated)} layers of {layers}")
    pattern = shortest_period(tuple(bool(flag) for flag in rotated[:layers]))
    windows = qwen2.windows(config, first_sliding=layers)
    # Where no layer is rotated the pattern is empty, which would mean that all are.
    return config.rotary(default_base=2000000.0) | windows | {"rotary_layers": pattern or (False,)}


def _less(model: ModelConfig) -> dict[str, Any]:
    rotated = model.rotary_layers or (True,)
    return qwen2.less(model) | {"no_rope_layers": [int(rotated[i % len(rotated)]) for i in range(model.num_layers)]}


ARCHITECTURE = Architecture(
    model_types=("smollm3",),
    prefix="model.",
    keys=llama.KEYS
    | llama.BIASES
    | {
        "num_kv_heads": Key("num_key_value_heads", default=4),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed=llama.FIXED,
    more=_more,
    less=_less,
    trunk=llama.trunk,
    classes=decoder_classes("SmolLM3"),
    also=(causal_lm(),),
    ignored=llama.IGNORED,
    tied=llama.TIED,
)
