"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108)."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures.heads import (
    bias,
    multiple_choice,
    question_answering,
    sequence_labels,
    token_labels,
    untied_vocabulary,
)
from jaxft.huggingface.configuration import Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig

_LAYER = (
    *into_heads("attention.q_lin", "attention/query"),
    *into_heads("attention.k_lin", "attention/key"),
    *into_heads("attention.v_lin", "attention/value"),
    *from_heads("attention.out_lin", "attention/output"),
    *norm("sa_layer_norm", "attention_norm"),
    *linear("ffn.lin1", "feed_forward/input"),
    *linear("ffn.lin2", "feed_forward/output"),
    *norm("output_layer_norm", "feed_forward_norm"),
)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (
        *table("embeddings.word_embeddings", "embeddings/tokens"),
        *table("embeddings.position_embeddings", "embeddings/learned_positions"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        Layers("transformer.layer.{}.", "body/stack", model.num_layers, _LAYER),
    )


def _masked_lm(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *linear("vocab_transform", "transform"),
        *norm("vocab_layer_norm", "norm"),
        *bias("vocab_projector.bias", "projection"),
        *(t.within("projection") for t in untied_vocabulary(model, "vocab_projector")),
    )


MASKED_LM = Head("masked_lm", HeadConfig("masked_lm"), _masked_lm)

ARCHITECTURE = Architecture(
    model_types=("distilbert",),
    prefix="distilbert.",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("dim"),
        "num_layers": Key("n_layers"),
        "num_heads": Key("n_heads"),
        "mlp_dim": Key("hidden_dim"),
        "max_length": Key("max_position_embeddings"),
        "activation": Key("activation", "activation", "gelu"),
        "dropout": Key("dropout", "number", 0.1),
        "attention_dropout": Key("attention_dropout", "number", 0.1),
        "initializer_range": Key("initializer_range", "number", 0.02),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed={
        "family": "encoder",
        "position": "learned",
        "norm_placement": "post",
        "norm_epsilon": 1e-12,
        "embedding_norm": True,
        "final_norm": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    # The table is learned from waves where this is set, so that it is a table either way.
    supported={"sinusoidal_pos_embds": (False, True)},
    trunk=_trunk,
    classes={
        "DistilBertModel": (),
        "DistilBertForMaskedLM": (MASKED_LM,),
        "DistilBertForSequenceClassification": (sequence_labels("classifier", "pre_classifier", activation="relu"),),
        "DistilBertForMultipleChoice": (multiple_choice("classifier", "pre_classifier", activation="relu"),),
        "DistilBertForTokenClassification": (token_labels("classifier"),),
        "DistilBertForQuestionAnswering": (question_answering(),),
    },
    also=(MASKED_LM,),
    tied={"vocab_projector.weight": "{trunk}embeddings.word_embeddings.weight"},
)
