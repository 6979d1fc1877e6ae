"""Instructions and their answers with a decoder: the loss is on the answers alone (Ouyang et al. 2022, 2203.02155)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxft.data.sources import Row, text_column
from jaxft.data.store import PART_ENDS, TOKENS, Fields, Record
from jaxft.errors import InvalidField
from jaxft.objectives.causal_lm import CausalLM
from jaxft.objectives.objective import Setting


@dataclasses.dataclass(frozen=True)
class InstructionConfig:
    """Instructions in a recipe.

    Attributes:
      prompt: column with the instruction.
      response: column with the answer.
      template: text of the whole prompt, in which `{prompt}` stands for the instruction; the answer follows it.
      length: tokens of a row, longer examples are cut at their end; the model's `max_length` where None.
    """

    kind: Literal["instruction"] = "instruction"
    prompt: str = "prompt"
    response: str = "response"
    template: str = "{prompt}\n"
    length: int | None = None

    def __post_init__(self):
        if self.template.count("{prompt}") != 1:
            raise InvalidField("template", f"must hold {{prompt}} once, found {self.template!r}")


class Instruction(CausalLM):
    """Predicts the tokens of answers from the prompts before them."""

    families = frozenset({"decoder"})
    truncate = True
    metrics = default_metrics = ("loss", "perplexity", "accuracy")

    def __init__(self, config: InstructionConfig, setting: Setting):
        super().__init__(config, setting)

    def fields(self, row: Row) -> Fields:
        """Prompt and answer."""
        prompt = self._config.template.replace("{prompt}", text_column(row, self._config.prompt))
        return Fields({TOKENS: (prompt, text_column(row, self._config.response))})

    def record_options(self) -> str:
        """The columns and the template."""
        config = self._config
        return f"prompt={config.prompt} response={config.response} template={config.template}"

    def _weights(self, record: Record, key: np.random.Generator) -> np.ndarray:
        prompt = int(record[PART_ENDS][0])
        return np.where(np.arange(len(record[TOKENS]) + self.overhead) >= prompt + self.overhead - 1,
                        super()._weights(record, key), 0)  # fmt: skip
