"""ALBERT (Lan et al. 2019, arXiv 1909.11942): one layer's parameters for all, a narrow token embedding."""

from __future__ import annotations

from typing import Any

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures import bert
from jaxft.huggingface.architectures.heads import (
    bias,
    multiple_choice,
    pooled,
    question_answering,
    sequence_labels,
    token_labels,
    untied_vocabulary,
)
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig

_LAYER = (
    *into_heads("attention.query", "attention/query"),
    *into_heads("attention.key", "attention/key"),
    *into_heads("attention.value", "attention/value"),
    *from_heads("attention.dense", "attention/output"),
    *norm("attention.LayerNorm", "attention_norm"),
    *linear("ffn", "feed_forward/input"),
    *linear("ffn_output", "feed_forward/output"),
    *norm("full_layer_layer_norm", "feed_forward_norm"),
)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    projection = linear("encoder.embedding_hidden_mapping_in", "embeddings/projection")
    return (
        *bert.embeddings(),
        *projection,
        Layers("encoder.albert_layer_groups.0.albert_layers.{}.", "body/stack", 1, _LAYER),
    )


def _masked_lm(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *linear("predictions.dense", "transform"),
        *norm("predictions.LayerNorm", "norm"),
        *bias("predictions.bias", "projection"),
        *(t.within("projection") for t in untied_vocabulary(model, "predictions.decoder")),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    if fields["embedding_dim"] == fields["embed_dim"]:
        raise CheckpointError(
            f"{config.source}: embedding_size = {fields['embedding_dim']} is not supported where hidden_size is the "
            "same: no block projects between equal widths"
        )
    return {}


POOLER = "{trunk}pooler"
MASKED_LM = Head("masked_lm", HeadConfig("masked_lm"), _masked_lm)
SENTENCE_ORDER = sequence_labels("sop_classifier.classifier", POOLER, of="sentence_order", labels=2)

ARCHITECTURE = Architecture(
    model_types=("albert",),
    prefix="albert.",
    keys=bert.KEYS
    | {
        "embedding_dim": Key("embedding_size"),
        "activation": Key("hidden_act", "activation", "gelu_new"),
        "dropout": Key("hidden_dropout_prob", "number", 0.0),
        "attention_dropout": Key("attention_probs_dropout_prob", "number", 0.0),
    },
    fixed=bert.FIXED | {"share_layers": True},
    supported={"position_embedding_type": ("absolute",), "num_hidden_groups": (1,), "inner_group_num": (1,)},
    more=_more,
    trunk=_trunk,
    classes={
        "AlbertModel": (pooled(POOLER),),
        "AlbertForMaskedLM": (MASKED_LM,),
        "AlbertForPreTraining": (MASKED_LM, SENTENCE_ORDER),
        "AlbertForSequenceClassification": (sequence_labels("classifier", POOLER),),
        "AlbertForMultipleChoice": (multiple_choice("classifier", POOLER),),
        "AlbertForTokenClassification": (token_labels("classifier"),),
        "AlbertForQuestionAnswering": (question_answering(),),
    },
    also=(MASKED_LM, SENTENCE_ORDER, pooled(POOLER)),
    ignored=(r".*embeddings\.position_ids",),
    tied={
        "predictions.decoder.weight": "{trunk}embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
)
