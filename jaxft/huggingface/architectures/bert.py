"""BERT (Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures.heads import (
    bias,
    multiple_choice,
    pooled,
    question_answering,
    sequence_labels,
    token_labels,
    untied_vocabulary,
)
from jaxft.huggingface.configuration import Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig

KEYS = {
    "vocab_size": Key("vocab_size"),
    "embed_dim": Key("hidden_size"),
    "num_layers": Key("num_hidden_layers"),
    "num_heads": Key("num_attention_heads"),
    "mlp_dim": Key("intermediate_size"),
    "max_length": Key("max_position_embeddings"),
    "token_types": Key("type_vocab_size", default=2, least=0),
    "norm_epsilon": Key("layer_norm_eps", "number", 1e-12),
    "activation": Key("hidden_act", "activation", "gelu"),
    "dropout": Key("hidden_dropout_prob", "number", 0.1),
    "attention_dropout": Key("attention_probs_dropout_prob", "number", 0.1),
    "initializer_range": Key("initializer_range", "number", 0.02),
    "tied_embeddings": Key("tie_word_embeddings", "flag", True),
}
FIXED = {
    "family": "encoder", "position": "learned", "norm_placement": "post", "embedding_norm": True, "final_norm": False,
    "attention_bias": True, "mlp_bias": True,
}  # fmt: skip
SUPPORTED = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


def embeddings(word: str = "word_embeddings") -> tuple[Tensor, ...]:
    """Tables of tokens, positions and types, and their norm."""
    return (
        *table(f"embeddings.{word}", "embeddings/tokens"),
        *table("embeddings.position_embeddings", "embeddings/learned_positions"),
        *table("embeddings.token_type_embeddings", "embeddings/types"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
    )


def layer(query: str = "query", key: str = "key", value: str = "value") -> tuple[Tensor, ...]:
    """A layer of BERT, and of those that name its parts alike."""
    return (
        *into_heads(f"attention.self.{query}", "attention/query"),
        *into_heads(f"attention.self.{key}", "attention/key"),
        *into_heads(f"attention.self.{value}", "attention/value"),
        *from_heads("attention.output.dense", "attention/output"),
        *norm("attention.output.LayerNorm", "attention_norm"),
        *linear("intermediate.dense", "feed_forward/input"),
        *linear("output.dense", "feed_forward/output"),
        *norm("output.LayerNorm", "feed_forward_norm"),
    )


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (*embeddings(), Layers("encoder.layer.{}.", "body/stack", model.num_layers, layer()))


def masked_lm(prefix: str = "cls.predictions.") -> Head:
    """The transform and the vocabulary."""

    def tensors(model: ModelConfig) -> tuple[Tensor, ...]:
        return (
            *linear(f"{prefix}transform.dense", "transform"),
            *norm(f"{prefix}transform.LayerNorm", "norm"),
            *bias(f"{prefix}bias", "projection"),
            *(t.within("projection") for t in untied_vocabulary(model, f"{prefix}decoder")),
        )

    return Head("masked_lm", HeadConfig("masked_lm"), tensors)


POOLER = "{trunk}pooler.dense"
MASKED_LM = masked_lm()
NEXT_SENTENCE = sequence_labels("cls.seq_relationship", POOLER, of="next_sentence", labels=2)
POOLED = pooled(POOLER)

ARCHITECTURE = Architecture(
    model_types=("bert",),
    prefix="bert.",
    keys=KEYS,
    fixed=FIXED,
    supported=SUPPORTED,
    trunk=_trunk,
    classes={
        "BertModel": (POOLED,),
        "BertForMaskedLM": (MASKED_LM,),
        "BertForPreTraining": (MASKED_LM, NEXT_SENTENCE),
        "BertForNextSentencePrediction": (NEXT_SENTENCE,),
        "BertForSequenceClassification": (sequence_labels("classifier", POOLER),),
        "BertForMultipleChoice": (multiple_choice("classifier", POOLER),),
        "BertForTokenClassification": (token_labels("classifier"),),
        "BertForQuestionAnswering": (question_answering(),),
    },
    also=(MASKED_LM, NEXT_SENTENCE, POOLED),
    ignored=(r".*embeddings\.position_ids",),
    tied={
        "cls.predictions.decoder.weight": "{trunk}embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
