"""What objectives have in common whose answers are texts that the model writes."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxft.data.store import Record
from jaxft.objectives.objective import Objective

# The right answer as it is written in the source, of records for evaluation.
ANSWER = "answer_text"
# What was written for each row, int32 `(rows, tokens)`, with -1 after the end.
WRITTEN = "written"

TEXT_METRICS = (
    "exact_match", "answer_f1", "final_number", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "bleu_zh",
    "bleu_char", "chrf", "cmrc_exact_match", "cmrc_f1",
)  # fmt: skip


class WritesAnswers(Objective):
    """An objective whose evaluation lets the model write, and compares that with the right answer.

    Attributes:
      start_ids: what a model reads before it writes, beyond the prompt.
      end_ids: what ends an answer.
      longest_answer: tokens that are written at most where a recipe says nothing.
    """

    writes = True
    predicts = True
    start_ids: tuple[int, ...] = ()
    longest_answer: int = 128

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends an answer."""
        return (self.tokenizer.separator_id,)

    @abc.abstractmethod
    def prompt(self, record: Record) -> np.ndarray:
        """What the model reads before it answers, int32 `(tokens,)`: the source, or the text up to the answer."""

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`answer`, the text that was written."""
        return [{"answer": self.tokenizer.decode(row[row >= 0]).strip()} for row in outputs[WRITTEN]]

    def references(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """`answers`: the one that is right."""
        return [{"answers": [record[ANSWER]]} for record in records]

    def for_evaluation(self) -> Self:
        """With the text of the right answer, and each example in a row of its own."""
        other = super().for_evaluation()
        other.pack = False
        return other

    def with_room(self, prompt: np.ndarray) -> np.ndarray:
        """The end of a prompt of a decoder that is so long that it leaves no room to answer."""
        room = self.length - min(self.longest_answer, self.length // 2)
        return prompt[-room:]

    def kept_answer(self, answer: str) -> dict[str, str]:
        """The right answer, where it is compared with."""
        return {ANSWER: answer} if self.evaluating else {}
