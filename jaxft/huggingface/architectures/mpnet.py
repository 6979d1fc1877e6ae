"""MPNet (Song et al. 2020, arXiv 2004.09297): learned positions and a relative bias."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import bert, roberta
from jaxft.huggingface.architectures.heads import (
    multiple_choice,
    pooled,
    question_answering,
    sequence_labels,
    token_labels,
)
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor, from_heads, into_heads, linear, norm, table, tensor
from jaxft.models.config import ModelConfig

_LAYER = (
    *into_heads("attention.attn.q", "attention/query"),
    *into_heads("attention.attn.k", "attention/key"),
    *into_heads("attention.attn.v", "attention/value"),
    *from_heads("attention.attn.o", "attention/output"),
    *norm("attention.LayerNorm", "attention_norm"),
    *linear("intermediate.dense", "feed_forward/input"),
    *linear("output.dense", "feed_forward/output"),
    *norm("output.LayerNorm", "feed_forward_norm"),
)


def _trunk(model: ModelConfig) -> tuple[Tensor | Layers, ...]:
    return (
        *table("embeddings.word_embeddings", "embeddings/tokens"),
        *table("embeddings.position_embeddings", "embeddings/learned_positions"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        tensor("encoder.relative_attention_bias.weight", "body/relative_bias/table", "buckets heads"),
        Layers("encoder.layer.{}.", "body/stack", model.num_layers, _LAYER),
    )


def _more(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    # Where positions begin is written into the class, whatever pad_token_id says.
    return {"position_offset": 2, "max_length": fields["max_length"] - 2}


_KEYS = {field: key for field, key in bert.KEYS.items() if field != "token_types"}

ARCHITECTURE = Architecture(
    model_types=("mpnet",),
    prefix="mpnet.",
    keys=_KEYS | {"relative_buckets": Key("relative_attention_num_buckets", default=32)},
    fixed=bert.FIXED | {"position": "relative_bias", "learned_positions": True, "relative_max_distance": 128},
    more=_more,
    less=roberta.table_rows,
    trunk=_trunk,
    classes={
        "MPNetModel": (pooled(bert.POOLER),),
        "MPNetForMaskedLM": (roberta.masked_lm(),),
        "MPNetForSequenceClassification": (sequence_labels("classifier.out_proj", "classifier.dense"),),
        "MPNetForMultipleChoice": (multiple_choice("classifier", bert.POOLER),),
        "MPNetForTokenClassification": (token_labels("classifier"),),
        "MPNetForQuestionAnswering": (question_answering(),),
    },
    also=(roberta.masked_lm(), pooled(bert.POOLER)),
    ignored=(r".*embeddings\.position_ids",),
    tied=roberta.TIED,
    positions_skip_padding="pad_token_id",
)
