"""GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures.heads import causal_lm, last_token_labels, question_answering, token_labels
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, joint, norm, table, tensor
from jaxft.models.config import ModelConfig


def _convolution(name: str, path: str, kernel: str) -> tuple[Tensor, ...]:
    """A projection that GPT-2 keeps as a convolution of width 1, `(inputs, outputs)`."""
    return tensor(f"{name}.weight", f"{path}/kernel", kernel), tensor(f"{name}.bias", f"{path}/bias", "outputs")


_PARTS = ("attention/query", "attention/key", "attention/value")
_LAYER = (
    *norm("ln_1", "attention_norm"),
    joint(
        "attn.c_attn.weight", "embed (part heads head_dim) -> embed heads head_dim", *(f"{p}/kernel" for p in _PARTS)
    ),
    joint("attn.c_attn.bias", "(part heads head_dim) -> heads head_dim", *(f"{p}/bias" for p in _PARTS)),
    *_convolution("attn.c_proj", "attention/output", "(heads head_dim) embed -> heads head_dim embed"),
    *norm("ln_2", "feed_forward_norm"),
    *_convolution("mlp.c_fc", "feed_forward/input", "embed mlp"),
    *_convolution("mlp.c_proj", "feed_forward/output", "mlp embed"),
)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (
        *table("wte", "embeddings/tokens"),
        *table("wpe", "embeddings/learned_positions"),
        Layers("h.{}.", "body/stack", model.num_layers, _LAYER),
        *norm("ln_f", "body/final_norm"),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    dropout = config.shared_number("resid_pdrop", "embd_pdrop", 0.1)
    return {"mlp_dim": config.integer("n_inner", 4 * fields["embed_dim"]), "dropout": dropout}


def _less(model: ModelConfig) -> dict[str, Any]:
    return {"n_inner": model.mlp_dim, "resid_pdrop": model.dropout, "embd_pdrop": model.dropout}


ARCHITECTURE = Architecture(
    model_types=("gpt2",),
    prefix="transformer.",
    keys={
        "vocab_size": Key("vocab_size"),
        "embed_dim": Key("n_embd"),
        "num_layers": Key("n_layer"),
        "num_heads": Key("n_head"),
        "max_length": Key("n_positions", default=1024),
        "norm_epsilon": Key("layer_norm_epsilon", "number", 1e-5),
        "activation": Key("activation_function", "activation", "gelu_new"),
        "attention_dropout": Key("attn_pdrop", "number", 0.1),
        "initializer_range": Key("initializer_range", "number", 0.02),
        "tied_embeddings": Key("tie_word_embeddings", "flag", True),
    },
    fixed={"family": "decoder", "position": "learned", "attention_bias": True, "mlp_bias": True},
    supported={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    more=_more,
    less=_less,
    trunk=_trunk,
    classes={
        "GPT2Model": (),
        "GPT2LMHeadModel": (causal_lm(),),
        "GPT2ForSequenceClassification": (last_token_labels(),),
        "GPT2ForTokenClassification": (token_labels("classifier"),),
        "GPT2ForQuestionAnswering": (question_answering(),),
    },
    also=(causal_lm(),),
    ignored=(r".*\.attn\.(bias|masked_bias)",),
    tied={"lm_head.weight": "{trunk}wte.weight"},
)
