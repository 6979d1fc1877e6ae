"""Model sizes by name.

Each is a shape that Hugging Face has a class for, so that what is trained here can leave: `encoder-*` are ModernBERT's,
`decoder-*` Llama's, `encoder-decoder-*` those of T5 1.1; the others are published models.
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


# What the published models below have in common besides their own fields.
_BASE = {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072, "max_length": 512}

# BERT as published (Devlin et al. 2018): learned positions, norms after each residual, biases everywhere.
_BERT = {
    "family": "encoder", "position": "learned", "norm_placement": "post", "norm_epsilon": 1e-12, "embedding_norm": True,
    "final_norm": False, "activation": "gelu", "attention_bias": True, "mlp_bias": True, "token_types": 2,
    "dropout": 0.1, "attention_dropout": 0.1, "max_length": 512,
}  # fmt: skip

# ViT as published (Dosovitskiy et al. 2020): 16x16 patches of images of 224x224.
_VIT = {
    "family": "vision", "position": "none", "norm_epsilon": 1e-12, "attention_bias": True, "mlp_bias": True,
    "activation": "gelu",
}  # fmt: skip

# Shapes of single models, under the names that they have on the hub, where their config.json has these values.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "bert-base": {**_BERT, **_BASE},
    "bert-large": {**_BERT, "embed_dim": 1024, "num_layers": 24, "num_heads": 16, "mlp_dim": 4096},
    # One block, used twelve times (Lan et al. 2019).
    "albert-base": {
        **_BERT, **_BASE, "embedding_dim": 128, "share_layers": True, "activation": "gelu_tanh", "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "electra-small": {
        **_BERT, "embedding_dim": 128, "embed_dim": 256, "num_layers": 12, "num_heads": 4, "mlp_dim": 1024,
    },
    "modernbert-base": {
        **_ENCODER, "embed_dim": 768, "num_layers": 22, "num_heads": 12, "mlp_dim": 1152, "max_length": 8192,
        "windows": (0, 64, 64), "rotary_base": 160000.0, "local_rotary_base": 10000.0,
    },
    "xlnet-base": {
        **_BASE, "family": "encoder", "position": "transformer_xl", "norm_placement": "post", "norm_epsilon": 1e-12,
        "final_norm": False, "mlp_bias": True, "activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1,
    },
    "gpt2-small": {
        **_BASE, "family": "decoder", "position": "learned", "attention_bias": True, "mlp_bias": True,
        "activation": "gelu_tanh", "max_length": 1024, "dropout": 0.1, "attention_dropout": 0.1,
    },
    # Llama 3.2 1B (Grattafiori et al. 2024), at the length of its first pretraining.
    "llama-1b": {
        **_DECODER, "embed_dim": 2048, "num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 8192,
        "max_length": 8192, "rotary_base": 500000.0,
    },
    "llama-8b": {
        **_DECODER, "embed_dim": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 14336,
        "max_length": 8192, "rotary_base": 500000.0, "tied_embeddings": False,
    },
    "llama-70b": {
        **_DECODER, "embed_dim": 8192, "num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "mlp_dim": 28672,
        "max_length": 8192, "rotary_base": 500000.0, "tied_embeddings": False,
    },
    # Llama 2 (Touvron et al. 2023).
    "llama2-7b": {
        **_DECODER, "embed_dim": 4096, "num_layers": 32, "num_heads": 32, "mlp_dim": 11008, "max_length": 4096,
        "tied_embeddings": False,
    },
    # T5 1.1; T5's rate of dropout while pretraining is 0.
    "t5-base": {**_ENCODER_DECODER, **_BASE, "mlp_dim": 2048},
    "t5-xl": {
        **_ENCODER_DECODER, "embed_dim": 2048, "num_layers": 24, "num_heads": 32, "head_dim": 64, "mlp_dim": 5120,
        "max_length": 512,
    },
    "ul2-20b": {
        **_ENCODER_DECODER, "embed_dim": 4096, "num_layers": 32, "num_heads": 16, "head_dim": 256, "mlp_dim": 16384,
        "max_length": 512, "activation": "silu",
    },
    "ul2-base": {**_ENCODER_DECODER, **_BASE, "mlp_dim": 2048, "activation": "silu"},
    # Small images, as those of CIFAR; for others say image_size, patch_size and channels.
    "vit-tiny": {
        **_VIT, "embed_dim": 128, "num_layers": 4, "num_heads": 4, "mlp_dim": 512, "image_size": 32, "patch_size": 4,
        "initializer_range": 0.08,
    },
    "vit-base": {**_VIT, **_BASE},
    "bart-base": {
        **_BASE, "family": "encoder_decoder", "num_layers": 6, "num_decoder_layers": 6, "position": "learned",
        "position_offset": 2, "embedding_norm": True, "norm_placement": "post", "final_norm": False,
        "attention_bias": True, "mlp_bias": True, "activation": "gelu", "max_length": 1024, "dropout": 0.1,
        "attention_dropout": 0.1,
    },
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    **{f"encoder-{size}": fields for size, fields in _family(_ENCODER).items()},
    **{f"decoder-{size}": fields for size, fields in _family(_DECODER).items()},
    **{f"encoder-decoder-{size}": fields for size, fields in _family(_ENCODER_DECODER).items()},
    **_PUBLISHED,
}
