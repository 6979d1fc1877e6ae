"""DeBERTa v2 and v3 (He et al. 2020, arXiv 2006.03654; 2021, arXiv 2111.09543): disentangled attention."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures import bert
from jaxft.huggingface.architectures.heads import (
    multiple_choice,
    question_answering,
    sequence_labels,
    token_labels,
)
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, norm, table, tensor
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    if not config.flag("relative_attention", False):
        raise config.unsupported("relative_attention", False, (True,))
    kinds = config.get("pos_att_type", [])
    kinds = kinds.split("|") if isinstance(kinds, str) else kinds
    if kinds not in (["c2p", "p2c"], ["p2c", "c2p"]):
        raise config.unsupported("pos_att_type", kinds, ("c2p|p2c",))
    if config.get("embedding_size", fields["embed_dim"]) != fields["embed_dim"]:
        raise config.unsupported("embedding_size", config.get("embedding_size"), (fields["embed_dim"],))
    buckets, distance = config.integer("position_buckets", -1), config.integer("max_relative_positions", -1)
    if distance < 1:
        distance = fields["max_length"]
    if buckets < 4:
        raise CheckpointError(f"{config.source}: position_buckets must be at least 4, found {buckets}")
    if distance - 1 <= buckets // 2:
        raise CheckpointError(
            f"{config.source}: max_relative_positions must be above {buckets // 2 + 1} with position_buckets = "
            f"{buckets}, found {distance}"
        )
    return {
        "relative_buckets": buckets,
        "relative_max_distance": distance,
        "convolution": config.integer("conv_kernel_size", 0),
        "convolution_activation": config.activation("conv_act", "tanh"),
        "learned_positions": config.flag("position_biased_input", True),
    }


def _less(model: ModelConfig) -> dict[str, Any]:
    return {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": model.relative_buckets,
        "max_relative_positions": model.relative_max_distance,
        "position_biased_input": model.learned_positions,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": model.convolution,
        "conv_act": model.convolution_activation,
    }


def _convolution(model: ModelConfig) -> tuple[Tensor, ...]:
    if not model.convolution:
        return ()
    path = "body/stack/convolution"
    weight = tensor(
        "encoder.conv.conv.weight",
        f"{path}/kernel/kernel",
        "embed inputs width -> (width inputs) embed",
        width=model.convolution,
    )
    bias = tensor("encoder.conv.conv.bias", f"{path}/kernel/bias", "embed")
    return (weight, bias, *norm("encoder.conv.LayerNorm", f"{path}/norm"))


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    parts = list(table("embeddings.word_embeddings", "embeddings/tokens"))
    if model.learned_positions:
        parts += table("embeddings.position_embeddings", "embeddings/learned_positions")
    if model.token_types:
        parts += table("embeddings.token_type_embeddings", "embeddings/types")
    return (
        *parts,
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        *table("encoder.rel_embeddings", "body/relative_positions/table"),
        *norm("encoder.LayerNorm", "body/relative_positions/norm"),
        *_convolution(model),
        Layers("encoder.layer.{}.", "body/stack", model.num_layers, bert.layer("query_proj", "key_proj", "value_proj")),
    )


MASKED_LM = bert.masked_lm()
_POOLER = "pooler.dense"


def _labels(head: Head) -> Head:
    """With the activation that the configuration names for the pooler."""

    def config(values: HuggingFaceConfig) -> HeadConfig:
        return dataclasses.replace(head.config_of(values), transform=values.activation("pooler_hidden_act", "gelu"))

    return Head(head.name, config, head.tensors)


ARCHITECTURE = Architecture(
    model_types=("deberta-v2",),
    prefix="deberta.",
    keys=bert.KEYS
    | {
        "norm_epsilon": Key("layer_norm_eps", "number", 1e-7),
        "token_types": Key("type_vocab_size", default=0, least=0),
    },
    fixed=bert.FIXED | {"position": "disentangled"},
    supported={
        "share_att_key": (True,),
        "norm_rel_ebd": ("layer_norm",),
        "conv_groups": (1,),
        "legacy": (True,),
    },
    more=_more,
    less=_less,
    trunk=_trunk,
    classes={
        "DebertaV2Model": (),
        "DebertaV2ForMaskedLM": (MASKED_LM,),
        "DebertaV2ForSequenceClassification": (_labels(sequence_labels("classifier", _POOLER)),),
        "DebertaV2ForMultipleChoice": (_labels(multiple_choice("classifier", _POOLER)),),
        "DebertaV2ForTokenClassification": (token_labels("classifier"),),
        "DebertaV2ForQuestionAnswering": (question_answering(),),
    },
    also=(MASKED_LM,),
    ignored=(r".*embeddings\.position_ids", r"lm_predictions\..*", r"mask_predictions\..*"),
    tied=bert.ARCHITECTURE.tied,
)
