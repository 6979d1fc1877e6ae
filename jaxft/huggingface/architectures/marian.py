"""Marian (Junczys-Dowmunt et al. 2018, arXiv 1804.00344): the first Transformer's norms and fixed positions."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import bart, pegasus

ARCHITECTURE = Architecture(
    model_types=("marian",),
    prefix="model.",
    keys=bart.KEYS,
    fixed=bart.FIXED | {"position": "sinusoidal", "norm_placement": "post", "final_norm": False},
    supported={
        "share_encoder_decoder_embeddings": (True,),
        "normalize_before": (False,),
        "add_final_layer_norm": (False,),
        "normalize_embedding": (False,),
    },
    more=bart.more,
    less=bart.less,
    trunk=bart.trunk,
    classes=bart.classes("Marian", "MarianMTModel"),
    also=(bart.SEQ2SEQ_LM,),
    ignored=pegasus.IGNORED,
    tied=bart.TIED,
)
