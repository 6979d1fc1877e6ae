"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): windows with a rotary base of their own, gated feed-forwards."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures.heads import bias, untied_vocabulary
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys
from jaxft.huggingface.layout import Layers, Tensor, from_heads, joint, linear, norm, table
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig, HeadKind, PoolingKind


def _layer(model: ModelConfig, number: int) -> tuple[Tensor, ...]:
    parts = ("attention/query", "attention/key", "attention/value")
    tensors = [
        joint(
            "attn.Wqkv.weight", "(part heads head_dim) embed -> embed heads head_dim", *(f"{p}/kernel" for p in parts)
        ),
        *from_heads("attn.Wo", "attention/output", model.attention_bias),
        *norm("mlp_norm", "feed_forward_norm", model.norm_bias),
        joint(
            "mlp.Wi.weight", "(part mlp) embed -> embed mlp", "feed_forward/gate/kernel", "feed_forward/input/kernel"
        ),
        *linear("mlp.Wo", "feed_forward/output", model.mlp_bias),
    ]
    if number:
        tensors += norm("attn_norm", "attention_norm", model.norm_bias)
    if model.attention_bias:
        tensors.append(
            joint("attn.Wqkv.bias", "(part heads head_dim) -> heads head_dim", *(f"{p}/bias" for p in parts))
        )
    if model.mlp_bias:
        tensors.append(joint("mlp.Wi.bias", "(part mlp) -> mlp", "feed_forward/gate/bias", "feed_forward/input/bias"))
    return tuple(tensors)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (
        *table("embeddings.tok_embeddings", "embeddings/tokens"),
        *norm("embeddings.norm", "embeddings/norm", model.norm_bias),
        Layers("layers.{}.", "body/stack", model.num_layers, lambda number: _layer(model, number)),
        *norm("final_norm", "body/final_norm", model.norm_bias),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    every = config.integer("global_attn_every_n_layers", 3, least=1)
    types = ["sliding_attention" if i % every else "full_attention" for i in range(fields["num_layers"])]
    # The width counts both sides.
    windows = config.windows(config.integer("local_attention", 128, least=2) // 2, types)
    return config.rotary("full_attention", 160000.0, base_key="global_rope_theta") | {
        "local_rotary_base": config.local_rotary_base("local_rope_theta") if windows else None,
        "windows": windows,
        "dropout": config.shared_number("embedding_dropout", "mlp_dropout", 0.0),
    }


def _less(model: ModelConfig) -> dict[str, Any]:
    windows = [(model.windows or (0,))[i % len(model.windows or (0,))] for i in range(model.num_layers)]
    local = model.rotary_base if model.local_rotary_base is None else model.local_rotary_base
    scaling = rotary_keys(model).get("rope_scaling", {})
    return {
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
        "local_attention": 2 * max(windows) or 128,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", **scaling, "rope_theta": model.rotary_base},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        "embedding_dropout": model.dropout,
        "mlp_dropout": model.dropout,
    }


_POOLINGS: dict[PoolingKind, str] = {"first": "cls", "mean": "mean"}


def _labels_head(name: str, kind: HeadKind, labels: bool = True) -> Head:
    def config(values: HuggingFaceConfig) -> HeadConfig:
        said = values.only("classifier_pooling", "cls", "mean")
        return HeadConfig(
            kind,
            values.num_labels if labels else 2,
            next(pooling for pooling, name in _POOLINGS.items() if name == said),
            values.activation("classifier_activation", "gelu"),
            transform_bias=values.flag("classifier_bias", False),
            transform_norm=True,
        )

    def keys(head: HeadConfig) -> dict[str, Any]:
        return {"classifier_pooling": _POOLINGS[head.pooling]} if head.pooling in _POOLINGS else {}

    return Head(name, config, _labels, keys)


def _masked_lm_config(values: HuggingFaceConfig) -> HeadConfig:
    values.only("decoder_bias", True)
    return HeadConfig(
        "masked_lm",
        activation=values.activation("classifier_activation", "gelu"),
        transform_bias=values.flag("classifier_bias", False),
    )


def _masked_lm(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *linear("head.dense", "transform", use_bias=False),
        *norm("head.norm", "norm", model.norm_bias),
        *bias("decoder.bias", "projection"),
        *(t.within("projection") for t in untied_vocabulary(model, "decoder")),
    )


def _labels(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *linear("head.dense", "pooler", use_bias=False),
        *norm("head.norm", "norm", model.norm_bias),
        *linear("classifier", "classifier"),
    )


MASKED_LM = Head("masked_lm", _masked_lm_config, _masked_lm)

ARCHITECTURE = Architecture(
    model_types=("modernbert",),
    prefix="model.",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("hidden_size"),
        "num_layers": Key("num_hidden_layers"),
        "num_heads": Key("num_attention_heads"),
        "mlp_dim": Key("intermediate_size"),
        "max_length": Key("max_position_embeddings"),
        "norm_epsilon": Key("norm_eps", "number", 1e-5),
        "norm_bias": Key("norm_bias", "flag", False),
        "activation": Key("hidden_activation", "activation", "gelu"),
        "attention_bias": Key("attention_bias", "flag", False),
        "mlp_bias": Key("mlp_bias", "flag", False),
        "attention_dropout": Key("attention_dropout", "number", 0.0),
        "initializer_range": Key("initializer_range", "number", 0.02),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed={
        "family": "encoder",
        "position": "rotary",
        "embedding_norm": True,
        "gated": True,
        "first_attention_norm": False,
    },
    supported={"classifier_bias": (False,)},
    more=_more,
    less=_less,
    trunk=_trunk,
    classes={
        "ModernBertModel": (),
        "ModernBertForMaskedLM": (MASKED_LM,),
        "ModernBertForSequenceClassification": (_labels_head("sequence_classification", "sequence_classification"),),
        "ModernBertForTokenClassification": (_labels_head("token_classification", "token_classification"),),
        "ModernBertForQuestionAnswering": (_labels_head("question_answering", "question_answering", labels=False),),
    },
    also=(MASKED_LM,),
    tied={"decoder.weight": "{trunk}embeddings.tok_embeddings.weight"},
)
