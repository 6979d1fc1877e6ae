"""T5 (Raffel et al. 2019, arXiv 1910.10683), T5 1.1 and Flan-T5, mT5, UL2."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures.heads import (
    question_answering,
    sequence_labels,
    untied_vocabulary,
)
from jaxft.huggingface.configuration import ACTIVATIONS, HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table, tensor
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig


def _attention(name: str, path: str) -> tuple[Tensor, ...]:
    return (
        *into_heads(f"{name}.q", f"{path}/query", False),
        *into_heads(f"{name}.k", f"{path}/key", False),
        *into_heads(f"{name}.v", f"{path}/value", False),
        *from_heads(f"{name}.o", f"{path}/output", False),
    )


def _feed_forward(model: ModelConfig, layer: int) -> tuple[Tensor, ...]:
    prefix = f"layer.{layer}.DenseReluDense"
    projections = (("gate", "wi_0"), ("input", "wi_1")) if model.gated else (("input", "wi"),)
    return (
        *(t for path, name in projections for t in linear(f"{prefix}.{name}", f"feed_forward/{path}", False)),
        *linear(f"{prefix}.wo", "feed_forward/output", False),
        *norm(f"layer.{layer}.layer_norm", "feed_forward_norm", False),
    )


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    own = (*_attention("layer.0.SelfAttention", "attention"), *norm("layer.0.layer_norm", "attention_norm", False))
    across = (
        *_attention("layer.1.EncDecAttention", "cross_attention"),
        *norm("layer.1.layer_norm", "cross_attention_norm", False),
    )
    encoder = (*own, *_feed_forward(model, 1))
    decoder = (*own, *across, *_feed_forward(model, 2))

    def of_side(side: str, layers: int, tensors: tuple[Tensor, ...]) -> tuple[Tensor | Layers, ...]:
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return (
            tensor(bias, f"{side}/relative_bias/table", "buckets heads"),
            Layers(f"{side}.block.{{}}.", f"{side}/stack", layers, tensors),
            *norm(f"{side}.final_layer_norm", f"{side}/final_norm", False),
        )

    return (
        *table("shared", "embeddings/tokens"),
        *of_side("encoder", model.num_layers, encoder),
        *of_side("decoder", model.decoder_layers, decoder),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    # mT5's own default is gated; both always write it.
    name = config.get("feed_forward_proj", "gated-gelu" if config.get("model_type") == "mt5" else "relu", str)
    gated, activation = name.startswith("gated-"), name.removeprefix("gated-")
    if activation not in ACTIVATIONS:
        raise config.unsupported("feed_forward_proj", name, [f"{g}{a}" for g in ("", "gated-") for a in ACTIVATIONS])
    # A gated GELU is the approximate one.
    activation = "gelu_tanh" if name == "gated-gelu" else ACTIVATIONS[activation]
    # Transformers writes these two besides, and goes by them where a file has them.
    gated = config.flag("is_gated_act", gated)
    activation = config.activation("dense_act_fn", activation) if "dense_act_fn" in config.values else activation
    # The first T5 ties and scales; 1.1 and mT5 do neither. Later files of transformers always say tied, and tell by
    # a key of their own whether to scale.
    tied = config.get("model_type") == "t5" and config.flag("tie_word_embeddings", True)
    scaled = config.flag("scale_decoder_outputs", tied)
    return {
        "gated": gated,
        "activation": activation,
        "logit_scale": fields["embed_dim"] ** -0.5 if scaled else 1.0,
    }


def _less(model: ModelConfig) -> dict[str, Any]:
    name = {"gelu_tanh": "gelu" if model.gated else "gelu_new"}.get(model.activation, model.activation)
    return {
        "feed_forward_proj": f"gated-{name}" if model.gated else name,
        "scale_decoder_outputs": model.logit_scale != 1.0,
        "is_encoder_decoder": True,
    }


SEQ2SEQ_LM = Head("seq2seq_lm", HeadConfig("causal_lm"), lambda model: untied_vocabulary(model, "lm_head"))


def _classes(name: str) -> dict[str, tuple[Head, ...]]:
    labels = sequence_labels("classification_head.out_proj", "classification_head.dense", pooling="last")
    return {
        f"{name}Model": (),
        f"{name}ForConditionalGeneration": (SEQ2SEQ_LM,),
        f"{name}WithLMHeadModel": (SEQ2SEQ_LM,),
        f"{name}ForSequenceClassification": (labels,),
        f"{name}ForQuestionAnswering": (question_answering(),),
    }


ARCHITECTURE = Architecture(
    model_types=("t5", "mt5"),
    prefix="",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("d_model"),
        "num_layers": Key("num_layers"),
        "num_decoder_layers": Key("num_decoder_layers", default=None),
        "num_heads": Key("num_heads"),
        "head_dim": Key("d_kv"),
        "mlp_dim": Key("d_ff"),
        "relative_buckets": Key("relative_attention_num_buckets", default=32),
        "relative_max_distance": Key("relative_attention_max_distance", default=128),
        "max_length": Key("n_positions", default=512),
        "norm_epsilon": Key("layer_norm_epsilon", "number", 1e-6),
        "dropout": Key("dropout_rate", "number", 0.1),
        "attention_dropout": Key("dropout_rate", "number", 0.1),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed={"family": "encoder_decoder", "position": "relative_bias", "norm": "rmsnorm", "attention_scale": 1.0},
    more=_more,
    less=_less,
    trunk=_trunk,
    classes=_classes("T5") | _classes("MT5"),
    also=(SEQ2SEQ_LM,),
    # Files of older releases repeat the table, and give later layers a bias that nothing reads.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    tied={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    wrappers=("transformer.",),
)
