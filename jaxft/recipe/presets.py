"""Model sizes by name.

Each is a shape that Hugging Face has a class for, so that what is trained here can leave: `encoder-*` are ModernBERT's,
`decoder-*` Llama's, `encoder-decoder-*` those of T5 1.1.
"""

from __future__ import annotations

from typing import Any

_ENCODER = {
    "family": "encoder", "position": "rotary", "norm_bias": False, "embedding_norm": True,
    "first_attention_norm": False, "activation": "gelu", "gated": True,
}  # fmt: skip
_DECODER = {"family": "decoder", "position": "rotary", "norm": "rmsnorm", "activation": "silu", "gated": True}
_ENCODER_DECODER = {
    "family": "encoder_decoder", "position": "relative_bias", "norm": "rmsnorm", "activation": "gelu_tanh",
    "gated": True, "norm_epsilon": 1e-6, "attention_scale": 1.0, "tied_embeddings": False,
}  # fmt: skip

# BERT's initial deviation of 0.02 suits its width; a narrow model that starts so small first spends hundreds of steps
# on growing its weights, so the small ones start near embed_dim ** -0.5.
_SIZES = {
    "tiny": {"embed_dim": 128, "num_layers": 2, "num_heads": 2, "max_length": 512, "initializer_range": 0.08},
    "small": {"embed_dim": 256, "num_layers": 4, "num_heads": 4, "max_length": 512, "initializer_range": 0.06},
    "base": {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "max_length": 512, "initializer_range": 0.02},
}


def _family(shape: dict[str, Any]) -> dict[str, dict[str, Any]]:
    # A gated feed-forward has three matrices: at 8/3 of the model's width it costs what two cost at 4 times the width.
    return {
        size: {**shape, **sizes, "mlp_dim": round(sizes["embed_dim"] * 8 / 3 / 64) * 64}
        for size, sizes in _SIZES.items()
    }


# BERT as published (Devlin et al. 2018): learned positions, norms after each residual, biases everywhere.
_BERT = {
    "family": "encoder", "position": "learned", "norm_placement": "post", "norm_epsilon": 1e-12, "embedding_norm": True,
    "final_norm": False, "activation": "gelu", "attention_bias": True, "mlp_bias": True, "token_types": 2,
    "dropout": 0.1, "attention_dropout": 0.1, "max_length": 512,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    **{f"encoder-{size}": fields for size, fields in _family(_ENCODER).items()},
    **{f"decoder-{size}": fields for size, fields in _family(_DECODER).items()},
    **{f"encoder-decoder-{size}": fields for size, fields in _family(_ENCODER_DECODER).items()},
    "bert-base": {**_BERT, "embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
    "bert-large": {**_BERT, "embed_dim": 1024, "num_layers": 24, "num_heads": 16, "mlp_dim": 4096},
}
