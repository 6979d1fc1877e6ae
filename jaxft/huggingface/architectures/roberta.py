"""RoBERTa (Liu et al. 2019, arXiv 1907.11692), XLM-RoBERTa and CamemBERT."""

from __future__ import annotations

from typing import Any

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures import bert
from jaxft.huggingface.architectures.heads import (
    bias,
    multiple_choice,
    pooled,
    question_answering,
    sequence_labels,
    token_labels,
    untied_vocabulary,
)
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.layout import Tensor, linear, norm
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig


def offset_positions(config: HuggingFaceConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Positions begin after the row of the padding token, so the table has more rows than positions."""
    offset = config.integer("pad_token_id", 1) + 1
    return {"position_offset": offset, "max_length": fields["max_length"] - offset}


def table_rows(model: ModelConfig) -> dict[str, Any]:
    """The inverse."""
    rows = model.max_length + model.position_offset
    return {"pad_token_id": model.position_offset - 1, "max_position_embeddings": rows}


def masked_lm() -> Head:
    """RoBERTa's names of BERT's head, whose activation is always the GELU."""

    def tensors(model: ModelConfig) -> tuple[Tensor, ...]:
        return (
            *linear("lm_head.dense", "transform"),
            *norm("lm_head.layer_norm", "norm"),
            *bias("lm_head.bias", "projection"),
            *(t.within("projection") for t in untied_vocabulary(model, "lm_head.decoder")),
        )

    return Head("masked_lm", HeadConfig("masked_lm", activation="gelu"), tensors)


TIED = {"lm_head.decoder.weight": "{trunk}embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"}


def _classes(name: str) -> dict[str, tuple[Head, ...]]:
    return {
        f"{name}Model": (pooled(bert.POOLER),),
        f"{name}ForMaskedLM": (masked_lm(),),
        f"{name}ForSequenceClassification": (sequence_labels("classifier.out_proj", "classifier.dense"),),
        f"{name}ForMultipleChoice": (multiple_choice("classifier", bert.POOLER),),
        f"{name}ForTokenClassification": (token_labels("classifier"),),
        f"{name}ForQuestionAnswering": (question_answering(),),
    }


ARCHITECTURE = Architecture(
    model_types=("roberta", "xlm-roberta", "camembert"),
    prefix="roberta.",
    keys=bert.KEYS,
    fixed=bert.FIXED,
    supported=bert.SUPPORTED,
    more=offset_positions,
    less=table_rows,
    trunk=bert.ARCHITECTURE.trunk,
    classes=_classes("Roberta") | _classes("XLMRoberta") | _classes("Camembert"),
    also=(masked_lm(), pooled(bert.POOLER)),
    ignored=bert.ARCHITECTURE.ignored,
    tied=TIED,
    positions_skip_padding="pad_token_id",
)
