"""All objectives by the name that a recipe gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxft.errors import RecipeError
from jaxft.extension.table import OpenTable
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.contrastive import Contrastive, ContrastiveConfig
from jaxft.objectives.image_classification import ImageClassification, ImageClassificationConfig
from jaxft.objectives.instruction import InstructionConfig, make_instruction
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.masked_next_token import MaskedNextToken, MaskedNextTokenConfig
from jaxft.objectives.minimal_pairs import MinimalPairs, MinimalPairsConfig
from jaxft.objectives.mixture_of_denoisers import MixtureOfDenoisers, MixtureOfDenoisersConfig
from jaxft.objectives.multi_label_classification import MultiLabelClassification, MultiLabelClassificationConfig
from jaxft.objectives.multiple_choice import MultipleChoice, MultipleChoiceConfig
from jaxft.objectives.next_sentence import NextSentence, NextSentenceConfig
from jaxft.objectives.objective import Objective, ObjectiveContext
from jaxft.objectives.permutation_lm import PermutationLM, PermutationLMConfig
from jaxft.objectives.preference import Preference, PreferenceConfig
from jaxft.objectives.prefix_lm import PrefixLM, PrefixLMConfig
from jaxft.objectives.question_answering import QuestionAnswering, QuestionAnsweringConfig
from jaxft.objectives.regression import Regression, RegressionConfig
from jaxft.objectives.replaced_token import ReplacedToken, ReplacedTokenConfig
from jaxft.objectives.sentence_order import SentenceOrder, SentenceOrderConfig
from jaxft.objectives.sentence_similarity import SentenceSimilarity, SentenceSimilarityConfig
from jaxft.objectives.seq2seq import Seq2Seq, Seq2SeqConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.objectives.span_corruption import SpanCorruption, SpanCorruptionConfig
from jaxft.objectives.text_infilling import TextInfilling, TextInfillingConfig
from jaxft.objectives.token_classification import TokenClassification, TokenClassificationConfig


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of objective.

    Attributes:
      config: what a recipe says of one, whose `kind` has its name as the default.
      make: an objective of such a config and what it stands in, as its class makes it.
    """

    config: type[ObjectiveConfig]
    make: Callable[[Any, ObjectiveContext], Objective]


@dataclasses.dataclass(frozen=True)
class AddedMetric:
    """A metric of a plug-in.

    Attributes:
      kinds: of the objectives that can be asked for it.
      lower_is_better: whether it is better when lower.
    """

    kinds: frozenset[str]
    lower_is_better: bool


_OWN: dict[type[ObjectiveConfig], Callable[[Any, ObjectiveContext], Objective]] = {
    MaskedLMConfig: MaskedLM,
    NextSentenceConfig: NextSentence,
    SentenceOrderConfig: SentenceOrder,
    CausalLMConfig: CausalLM,
    PrefixLMConfig: PrefixLM,
    SpanCorruptionConfig: SpanCorruption,
    MixtureOfDenoisersConfig: MixtureOfDenoisers,
    TextInfillingConfig: TextInfilling,
    PermutationLMConfig: PermutationLM,
    ReplacedTokenConfig: ReplacedToken,
    ContrastiveConfig: Contrastive,
    MaskedNextTokenConfig: MaskedNextToken,
    SequenceClassificationConfig: SequenceClassification,
    MultiLabelClassificationConfig: MultiLabelClassification,
    RegressionConfig: Regression,
    MultipleChoiceConfig: MultipleChoice,
    ImageClassificationConfig: ImageClassification,
    TokenClassificationConfig: TokenClassification,
    QuestionAnsweringConfig: QuestionAnswering,
    Seq2SeqConfig: Seq2Seq,
    InstructionConfig: make_instruction,
    PreferenceConfig: Preference,
    MinimalPairsConfig: MinimalPairs,
    SentenceSimilarityConfig: SentenceSimilarity,
}
OBJECTIVES = OpenTable("objective", {config.kind: Kind(config, make) for config, make in _OWN.items()})
METRICS: OpenTable[AddedMetric] = OpenTable("metric", {})


def kinds() -> dict[str, type[ObjectiveConfig]]:
    """The configs of all objectives by the name that a recipe gives them."""
    return {name: kind.config for name, kind in OBJECTIVES.items()}


def make_objective(config: ObjectiveConfig, context: ObjectiveContext) -> Objective:
    """An objective ready for its data.

    Args:
      config: what the recipe says.
      context: tokenizer, model and name of the stream.

    Raises:
      RecipeError: the tokenizer lacks a special token that the objective needs, the model is of another family, or a
        metric of a plug-in has the name of one of the objective's own.
    """
    objective = OBJECTIVES[config.kind].make(config, context)
    for name, metric in METRICS.items():
        if config.kind in metric.kinds:
            if name in objective.metrics:
                raise RecipeError(f"metric {name!r}: objective {config.kind} has one of this name; choose another one")
            objective.metrics = (*objective.metrics, name)
            objective.lower_is_better |= {name} if metric.lower_is_better else set()
    return objective
