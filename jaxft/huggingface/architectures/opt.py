"""OPT (Zhang et al. 2022, arXiv 2205.01068)."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures.heads import causal_lm, last_token_labels, question_answering
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table
from jaxft.models.config import ModelConfig


def _layer(model: ModelConfig) -> tuple[Tensor, ...]:
    return (
        *into_heads("self_attn.q_proj", "attention/query", model.attention_bias),
        *into_heads("self_attn.k_proj", "attention/key", model.attention_bias),
        *into_heads("self_attn.v_proj", "attention/value", model.attention_bias),
        *from_heads("self_attn.out_proj", "attention/output", model.attention_bias),
        *norm("self_attn_layer_norm", "attention_norm"),
        *linear("fc1", "feed_forward/input", model.mlp_bias),
        *linear("fc2", "feed_forward/output", model.mlp_bias),
        *norm("final_layer_norm", "feed_forward_norm"),
    )


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    narrow = model.width_of_embedding != model.embed_dim
    return (
        *table("decoder.embed_tokens", "embeddings/tokens"),
        *table("decoder.embed_positions", "embeddings/learned_positions"),
        *(linear("decoder.project_in", "embeddings/projection", use_bias=False) if narrow else ()),
        Layers("decoder.layers.{}.", "body/stack", model.num_layers, _layer(model)),
        *(norm("decoder.final_layer_norm", "body/final_norm") if model.final_norm else ()),
        *(linear("decoder.project_out", "output_projection", use_bias=False) if narrow else ()),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    before, bias = config.flag("do_layer_norm_before", True), config.flag("enable_bias", True)
    return {
        "norm_placement": "pre" if before else "post",
        "final_norm": before and not config.flag("_remove_final_layer_norm", False),
        "attention_bias": bias,
        "mlp_bias": bias,
        "embedding_dim": config.integer("word_embed_proj_dim", fields["embed_dim"]),
    }


def _less(model: ModelConfig) -> dict[str, Any]:
    return {
        "do_layer_norm_before": model.norm_placement == "pre",
        "enable_bias": model.attention_bias,
        "word_embed_proj_dim": model.width_of_embedding,
    }


ARCHITECTURE = Architecture(
    model_types=("opt",),
    prefix="model.",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("hidden_size"),
        "num_layers": Key("num_hidden_layers"),
        "num_heads": Key("num_attention_heads"),
        "mlp_dim": Key("ffn_dim"),
        "max_length": Key("max_position_embeddings"),
        "activation": Key("activation_function", "activation", "relu"),
        "dropout": Key("dropout", "number", 0.1),
        "attention_dropout": Key("attention_dropout", "number", 0.0),
        "initializer_range": Key("init_std", "number", 0.02),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed={"family": "decoder", "position": "learned", "position_offset": 2, "embedding_projection": "first"},
    supported={"layer_norm_elementwise_affine": (True,)},
    more=_more,
    less=_less,
    trunk=_trunk,
    classes={
        "OPTModel": (),
        "OPTForCausalLM": (causal_lm(),),
        "OPTForSequenceClassification": (last_token_labels(),),
        "OPTForQuestionAnswering": (question_answering(),),
    },
    also=(causal_lm(),),
    tied={"lm_head.weight": "{trunk}decoder.embed_tokens.weight"},
    positions_skip_padding="mask",
)
