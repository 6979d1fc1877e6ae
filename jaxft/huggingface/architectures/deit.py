"""DeiT (Touvron et al. 2020, arXiv 2012.12877): ViT with a token for distillation."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import vit
from jaxft.huggingface.architectures.heads import pooled, sequence_labels

CLASS = sequence_labels("cls_classifier", of="sequence_classification")
DISTILLED = sequence_labels("distillation_classifier", of="distillation", pooling="second")

ARCHITECTURE = Architecture(
    model_types=("deit",),
    prefix="deit.",
    keys=vit.KEYS,
    fixed=vit.FIXED | {"class_tokens": 2},
    supported={"pooler_act": ("tanh",)},
    trunk=vit.trunk,
    classes={
        "DeiTModel": (pooled(vit.POOLER),),
        "DeiTForImageClassification": (sequence_labels("classifier"),),
        # Its logits are the mean of both.
        "DeiTForImageClassificationWithTeacher": (CLASS, DISTILLED),
    },
    also=(pooled(vit.POOLER),),
    renamed=vit.RENAMED,
    averaged=("DeiTForImageClassificationWithTeacher",),
)
