"""All objectives by the name that a recipe gives them."""

from __future__ import annotations

from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import RecipeError
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.objective import Objective
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig

ObjectiveConfig = MaskedLMConfig | SequenceClassificationConfig


def make_objective(config: ObjectiveConfig, tokenizer: Tokenizer, longest: int, stream: str) -> Objective:
    """An objective ready for its data.

    Args:
      config: what the recipe says.
      tokenizer: of the run.
      longest: tokens that the model can read; the length where the config has none.
      stream: name of the stream, which names the head of a task: two tasks never share a head.

    Raises:
      RecipeError: the tokenizer lacks a special token that the objective needs.
    """
    if tokenizer.start_id is None:
        raise RecipeError(f"objective {config.kind}: this tokenizer has no start token (CLS or BOS), which it needs")
    length = config.length or longest
    if isinstance(config, MaskedLMConfig):
        return MaskedLM(config, tokenizer, length)
    return SequenceClassification(config, tokenizer, length, head_name=stream)
