"""ELECTRA (Clark et al. 2020, arXiv 2003.10555), discriminator and generator."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures import bert
from jaxft.huggingface.architectures.heads import (
    bias,
    multiple_choice,
    question_answering,
    sequence_labels,
    token_labels,
    untied_vocabulary,
)
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, linear, norm
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    narrow = model.width_of_embedding != model.embed_dim
    return (
        *bert.embeddings(),
        *(linear("embeddings_project", "embeddings/projection") if narrow else ()),
        Layers("encoder.layer.{}.", "body/stack", model.num_layers, bert.layer()),
    )


def _masked_lm(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *linear("generator_predictions.dense", "transform"),
        *norm("generator_predictions.LayerNorm", "norm"),
        *bias("generator_lm_head.bias", "projection"),
        *(t.within("projection") for t in untied_vocabulary(model, "generator_lm_head")),
    )


def _replaced_token(config: HuggingFaceConfig) -> HeadConfig:
    return HeadConfig("token_classification", 1, transform=config.activation("hidden_act", "gelu"))


_DISCRIMINATOR = (
    *linear("discriminator_predictions.dense", "pooler"),
    *linear("discriminator_predictions.dense_prediction", "classifier"),
)
MASKED_LM = Head("masked_lm", HeadConfig("masked_lm", activation="gelu"), _masked_lm)
REPLACED_TOKEN = Head("replaced_token", _replaced_token, _DISCRIMINATOR)

ARCHITECTURE = Architecture(
    model_types=("electra",),
    prefix="electra.",
    keys=bert.KEYS | {"embedding_dim": Key("embedding_size")},
    fixed=bert.FIXED,
    supported=bert.SUPPORTED,
    trunk=_trunk,
    classes={
        "ElectraModel": (),
        "ElectraForPreTraining": (REPLACED_TOKEN,),
        "ElectraForMaskedLM": (MASKED_LM,),
        "ElectraForSequenceClassification": (
            sequence_labels("classifier.out_proj", "classifier.dense", activation="gelu"),
        ),
        "ElectraForMultipleChoice": (multiple_choice("classifier", "sequence_summary.summary", activation="gelu"),),
        "ElectraForTokenClassification": (token_labels("classifier"),),
        "ElectraForQuestionAnswering": (question_answering(),),
    },
    also=(REPLACED_TOKEN, MASKED_LM),
    ignored=(r".*embeddings\.position_ids",),
    tied={"generator_lm_head.weight": "{trunk}embeddings.word_embeddings.weight"},
)
