"""XLNet (Yang et al. 2019, arXiv 1906.08237), on the attention of Transformer-XL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures.heads import question_answering, token_labels, untied_vocabulary
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, linear, norm, table, tensor
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig, HeadKind, PoolingKind

_ATTENTION = "rel_attn."
_LAYER = (
    *(
        tensor(f"{_ATTENTION}{name}", f"attention/{path}/kernel", "embed heads head_dim")
        for name, path in (("q", "query"), ("k", "key"), ("v", "value"), ("r", "relative"))
    ),
    tensor(f"{_ATTENTION}o", "attention/output/kernel", "embed heads head_dim -> heads head_dim embed"),
    tensor(f"{_ATTENTION}r_w_bias", "attention/relative/content_bias", "heads head_dim"),
    tensor(f"{_ATTENTION}r_r_bias", "attention/relative/position_bias", "heads head_dim"),
    tensor(f"{_ATTENTION}r_s_bias", "attention/relative/type_bias", "heads head_dim"),
    tensor(f"{_ATTENTION}seg_embed", "attention/relative/types", "types heads head_dim"),
    *norm(f"{_ATTENTION}layer_norm", "attention_norm"),
    *linear("ff.layer_1", "feed_forward/input"),
    *linear("ff.layer_2", "feed_forward/output"),
    *norm("ff.layer_norm", "feed_forward_norm"),
)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (
        *table("word_embedding", "embeddings/tokens"),
        tensor("mask_emb", "query_vector", "first second embed -> embed", first=1, second=1),
        Layers("layer.{}.", "body/stack", model.num_layers, _LAYER),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    width = config.integer("d_head", fields["embed_dim"] // fields["num_heads"])
    if width != fields["embed_dim"] / fields["num_heads"]:
        raise config.unsupported("d_head", width, [fields["embed_dim"] // fields["num_heads"]])
    return {}


def _vocabulary(model: ModelConfig) -> tuple[Tensor, ...]:
    return (tensor("lm_loss.bias", "bias", "vocab"), *untied_vocabulary(model, "lm_loss"))


def _summary(
    kind: HeadKind = "sequence_classification", labels: int | None = None
) -> Callable[[HuggingFaceConfig], HeadConfig]:
    def config(values: HuggingFaceConfig) -> HeadConfig:
        values.only("summary_type", "last", "first")
        values.only("summary_use_proj", True)
        values.only("summary_activation", "tanh")
        pooling: PoolingKind = "last" if values.get("summary_type", "last") == "last" else "first"
        return HeadConfig(kind, labels or values.num_labels, pooling)

    return config


_LABELS = (*linear("sequence_summary.summary", "pooler"), *linear("logits_proj", "classifier"))
LANGUAGE_MODEL = Head("permutation_lm", HeadConfig("causal_lm", vocabulary_bias=True), _vocabulary)

ARCHITECTURE = Architecture(
    model_types=("xlnet",),
    prefix="transformer.",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("d_model"),
        "num_layers": Key("n_layer"),
        "num_heads": Key("n_head"),
        "mlp_dim": Key("d_inner"),
        "norm_epsilon": Key("layer_norm_eps", "number", 1e-12),
        "activation": Key("ff_activation", "activation", "gelu"),
        "dropout": Key("dropout", "number", 0.1),
        "attention_dropout": Key("dropout", "number", 0.1),
        "initializer_range": Key("initializer_range", "number", 0.02),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed={
        "family": "encoder",
        "position": "transformer_xl",
        "norm_placement": "post",
        "final_norm": False,
        "mlp_bias": True,
    },
    supported={
        "attn_type": ("bi",),
        "bi_data": (False,),
        "clamp_len": (-1,),
        "untie_r": (True,),
        "same_length": (False,),
    },
    more=_more,
    trunk=_trunk,
    classes={
        "XLNetModel": (),
        "XLNetLMHeadModel": (LANGUAGE_MODEL,),
        "XLNetForSequenceClassification": (Head("sequence_classification", _summary(), _LABELS),),
        "XLNetForMultipleChoice": (Head("multiple_choice", _summary("multiple_choice", 1), _LABELS),),
        "XLNetForTokenClassification": (token_labels("classifier"),),
        "XLNetForQuestionAnsweringSimple": (question_answering(),),
    },
    also=(LANGUAGE_MODEL,),
    tied={"lm_loss.weight": "{trunk}word_embedding.weight"},
)
