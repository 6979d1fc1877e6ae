"""GPT-NeoX (Black et al. 2022, arXiv 2204.06745) and Pythia."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures.heads import causal_lm, last_token_labels, question_answering, token_labels
from jaxft.huggingface.configuration import HuggingFaceConfig, Key, rotary_keys
from jaxft.huggingface.layout import Layers, Tensor, from_heads, joint, linear, norm, table
from jaxft.models.config import ModelConfig

_PARTS = ("attention/query", "attention/key", "attention/value")


def _layer(model: ModelConfig) -> tuple[Tensor, ...]:
    weights, biases = (tuple(f"{part}/{leaf}" for part in _PARTS) for leaf in ("kernel", "bias"))
    bias = (joint("attention.query_key_value.bias", "(heads part head_dim) -> heads head_dim", *biases),)
    return (
        *norm("input_layernorm", "attention_norm"),
        joint("attention.query_key_value.weight", "(heads part head_dim) embed -> embed heads head_dim", *weights),
        *(bias if model.attention_bias else ()),
        *from_heads("attention.dense", "attention/output", model.attention_bias),
        *norm("post_attention_layernorm", "feed_forward_norm"),
        *linear("mlp.dense_h_to_4h", "feed_forward/input"),
        *linear("mlp.dense_4h_to_h", "feed_forward/output"),
    )


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (
        *table("embed_in", "embeddings/tokens"),
        Layers("layers.{}.", "body/stack", model.num_layers, _layer(model)),
        *norm("final_layer_norm", "body/final_norm"),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    rotary = config.rotary(default_base=config.number("rotary_emb_base", 10000), partial=True)
    rope = config.get("rope_parameters", {}, dict)
    if "partial_rotary_factor" not in rope:
        rotary["rotary_fraction"] = config.number("rotary_pct", 0.25)
    return rotary


def _less(model: ModelConfig) -> dict[str, Any]:
    rope = rotary_keys(model)
    return {"rotary_pct": model.rotary_fraction, "rotary_emb_base": rope.pop("rope_theta"), **rope}


ARCHITECTURE = Architecture(
    model_types=("gpt_neox",),
    prefix="gpt_neox.",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("hidden_size"),
        "num_layers": Key("num_hidden_layers"),
        "num_heads": Key("num_attention_heads"),
        "mlp_dim": Key("intermediate_size"),
        "max_length": Key("max_position_embeddings"),
        "norm_epsilon": Key("layer_norm_eps", "number", 1e-5),
        "activation": Key("hidden_act", "activation", "gelu"),
        "attention_bias": Key("attention_bias", "flag", True),
        "parallel_residual": Key("use_parallel_residual", "flag", True),
        "dropout": Key("hidden_dropout", "number", 0.0),
        "attention_dropout": Key("attention_dropout", "number", 0.0),
        "initializer_range": Key("initializer_range", "number", 0.02),
        "tied_embeddings": Key("tie_word_embeddings", "flag", False),
    },
    fixed={"family": "decoder", "position": "rotary", "mlp_bias": True},
    more=_more,
    less=_less,
    trunk=_trunk,
    classes={
        "GPTNeoXModel": (),
        "GPTNeoXForCausalLM": (causal_lm("embed_out"),),
        "GPTNeoXForSequenceClassification": (last_token_labels(),),
        "GPTNeoXForTokenClassification": (token_labels("classifier"),),
        "GPTNeoXForQuestionAnswering": (question_answering(),),
    },
    also=(causal_lm("embed_out"),),
    ignored=(r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    tied={"embed_out.weight": "{trunk}embed_in.weight"},
)
