"""BART (Lewis et al. 2019, arXiv 1910.13461), mBART (2020, arXiv 2001.08210), Pegasus (arXiv 1912.08777), Marian."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures.heads import question_answering, sequence_labels, untied_vocabulary
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table, tensor
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig

KEYS = {
    "vocab_size": Key("vocab_size"),
    "embed_dim": Key("d_model"),
    "num_layers": Key("encoder_layers"),
    "num_decoder_layers": Key("decoder_layers"),
    "num_heads": Key("encoder_attention_heads"),
    "num_decoder_heads": Key("decoder_attention_heads"),
    "mlp_dim": Key("encoder_ffn_dim"),
    "decoder_mlp_dim": Key("decoder_ffn_dim"),
    "max_length": Key("max_position_embeddings"),
    "activation": Key("activation_function", "activation", "gelu"),
    "dropout": Key("dropout", "number", 0.1),
    "attention_dropout": Key("attention_dropout", "number", 0.0),
    "initializer_range": Key("init_std", "number", 0.02),
    "tied_embeddings": Key("tie_word_embeddings", "flag", True),
}
FIXED = {"family": "encoder_decoder", "attention_bias": True, "mlp_bias": True}
LEARNED = {"position": "learned", "position_offset": 2, "embedding_norm": True}


def _attention(name: str, path: str) -> tuple[Tensor, ...]:
    return (
        *into_heads(f"{name}.q_proj", f"{path}/query"),
        *into_heads(f"{name}.k_proj", f"{path}/key"),
        *into_heads(f"{name}.v_proj", f"{path}/value"),
        *from_heads(f"{name}.out_proj", f"{path}/output"),
        *norm(f"{name}_layer_norm", f"{path}_norm"),
    )


_FEED_FORWARD = (
    *linear("fc1", "feed_forward/input"),
    *linear("fc2", "feed_forward/output"),
    *norm("final_layer_norm", "feed_forward_norm"),
)
_ENCODER = (*_attention("self_attn", "attention"), *_FEED_FORWARD)
_DECODER = (*_attention("self_attn", "attention"), *_attention("encoder_attn", "cross_attention"), *_FEED_FORWARD)


def trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    """Of all four: they differ in positions and norms."""

    def of_side(side: str, embeddings: str, layers: int, tensors: tuple[Tensor, ...]) -> tuple[Tensor | Layers, ...]:
        parts: list[Tensor | Layers] = [Layers(f"{side}.layers.{{}}.", f"{side}/stack", layers, tensors)]
        if model.has_learned_positions:
            parts += table(f"{side}.embed_positions", f"{embeddings}/learned_positions")
        if model.embedding_norm:
            parts += norm(f"{side}.layernorm_embedding", f"{embeddings}/norm")
        if model.final_norm:
            parts += norm(f"{side}.layer_norm", f"{side}/final_norm")
        return tuple(parts)

    return (
        *table("shared", "embeddings/tokens"),
        *of_side("encoder", "embeddings", model.num_layers, _ENCODER),
        *of_side("decoder", "target_embeddings", model.decoder_layers, _DECODER),
    )


def more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """The scale of the embedding."""
    return {"embedding_scale": fields["embed_dim"] ** 0.5 if config.flag("scale_embedding", False) else 1.0}


def less(model: ModelConfig) -> dict[str, Any]:
    """The inverse."""
    return {"scale_embedding": model.embedding_scale != 1.0, "is_encoder_decoder": True}


def _seq2seq_lm(model: ModelConfig) -> tuple[Tensor, ...]:
    bias = tensor("final_logits_bias", "bias", "one vocab -> vocab", one=1)
    return (bias, *untied_vocabulary(model, "lm_head"))


SEQ2SEQ_LM = Head("seq2seq_lm", HeadConfig("causal_lm", vocabulary_bias=True), _seq2seq_lm)
TIED = {
    "lm_head.weight": "model.shared.weight",
    **{f"{{trunk}}{side}.embed_tokens.weight": "{trunk}shared.weight" for side in ("encoder", "decoder")},
}


def classes(name: str, generator: str) -> dict[str, tuple[Head, ...]]:
    """The classes of an architecture whose names begin alike."""
    labels = sequence_labels("classification_head.out_proj", "classification_head.dense", pooling="last")
    return {
        f"{name}Model": (),
        generator: (SEQ2SEQ_LM,),
        f"{name}ForSequenceClassification": (labels,),
        f"{name}ForQuestionAnswering": (question_answering(),),
    }


ARCHITECTURE = Architecture(
    model_types=("bart",),
    prefix="model.",
    keys=KEYS,
    fixed=FIXED | LEARNED | {"norm_placement": "post", "final_norm": False},
    # Old files of BART carry switches that only mBART used.
    supported={"normalize_before": (False,), "add_final_layer_norm": (False,), "normalize_embedding": (True,)},
    more=more,
    less=less,
    trunk=trunk,
    classes=classes("Bart", "BartForConditionalGeneration"),
    also=(SEQ2SEQ_LM,),
    tied=TIED,
)
