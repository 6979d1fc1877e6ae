"""Pegasus (Zhang et al. 2019, arXiv 1912.08777): norms before each sub-layer, fixed positions."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import bart

# Positions are waves, which some files hold and others leave out.
IGNORED = (r"model\.(encoder|decoder)\.embed_positions\.weight",)

ARCHITECTURE = Architecture(
    model_types=("pegasus",),
    prefix="model.",
    keys=bart.KEYS,
    fixed=bart.FIXED | {"position": "sinusoidal"},
    supported={"normalize_before": (True,), "add_final_layer_norm": (True,), "normalize_embedding": (False,)},
    more=bart.more,
    less=bart.less,
    trunk=bart.trunk,
    classes=bart.classes("Pegasus", "PegasusForConditionalGeneration"),
    also=(bart.SEQ2SEQ_LM,),
    ignored=IGNORED,
    tied=bart.TIED,
)
