"""All objectives by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable

from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
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

ObjectiveConfig = (
    MaskedLMConfig
    | NextSentenceConfig
    | SentenceOrderConfig
    | CausalLMConfig
    | PrefixLMConfig
    | SpanCorruptionConfig
    | MixtureOfDenoisersConfig
    | TextInfillingConfig
    | PermutationLMConfig
    | ReplacedTokenConfig
    | ContrastiveConfig
    | MaskedNextTokenConfig
    | SequenceClassificationConfig
    | MultiLabelClassificationConfig
    | RegressionConfig
    | MultipleChoiceConfig
    | ImageClassificationConfig
    | TokenClassificationConfig
    | QuestionAnsweringConfig
    | Seq2SeqConfig
    | InstructionConfig
    | PreferenceConfig
    | MinimalPairsConfig
    | SentenceSimilarityConfig
)

_OBJECTIVES: dict[type, Callable[..., Objective]] = {
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


def text_columns(config: ObjectiveConfig) -> tuple[str, ...]:
    """Columns of a source that an objective reads text from, lists of words or conversations."""
    if getattr(config, "messages", None) is not None:
        return (config.messages,)
    names = ["text", "pair", "negative", "source", "target", "prompt", "response", "chosen", "rejected", "question"]
    names += ["context", "tokens", "choices"]
    if isinstance(config, RegressionConfig):
        names.remove("target")  # which holds numbers
    columns = []
    for name in names:
        found = getattr(config, name, None)
        columns += [] if found is None else [found] if isinstance(found, str) else found
    return tuple(columns)


def make_objective(config: ObjectiveConfig, context: ObjectiveContext) -> Objective:
    """An objective ready for its data.

    Args:
      config: what the recipe says.
      context: tokenizer, model and name of the stream.

    Raises:
      RecipeError: the tokenizer lacks a special token that the objective needs, or the model is of another family.
    """
    return _OBJECTIVES[type(config)](config, context)
