"""All objectives by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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

Factory = Callable[[Any, ObjectiveContext], Objective]

# Of every kind its config, and what makes an objective of it. Kinds from outside join them by `register`.
_FACTORIES: dict[type[ObjectiveConfig], Factory] = {
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


def kinds() -> Mapping[str, type[ObjectiveConfig]]:
    """The configs of all objectives by the name that a recipe gives them."""
    return {config.kind: config for config in _FACTORIES}


def make_objective(config: ObjectiveConfig, context: ObjectiveContext) -> Objective:
    """An objective ready for its data.

    Args:
      config: what the recipe says.
      context: tokenizer, model and name of the stream.

    Raises:
      RecipeError: the tokenizer lacks a special token that the objective needs, or the model is of another family.
    """
    return _FACTORIES[type(config)](config, context)
