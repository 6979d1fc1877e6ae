"""mBART (Liu et al. 2020, arXiv 2001.08210): BART with norms before each sub-layer."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import bart

ARCHITECTURE = Architecture(
    model_types=("mbart",),
    prefix="model.",
    keys=bart.KEYS,
    fixed=bart.FIXED | bart.LEARNED,
    supported={"normalize_before": (True,), "add_final_layer_norm": (True,), "normalize_embedding": (True,)},
    more=bart.more,
    less=bart.less,
    trunk=bart.trunk,
    classes=bart.classes("MBart", "MBartForConditionalGeneration"),
    also=(bart.SEQ2SEQ_LM,),
    tied=bart.TIED,
)
