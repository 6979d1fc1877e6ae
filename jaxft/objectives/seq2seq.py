"""One text to another with an encoder-decoder: summaries, translations, answers (Sutskever et al. 2014)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import InvalidField
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.denoising import Pair, SequenceToSequence, seq2seq_template
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.writing import TEXT_METRICS, WritesAnswers


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig(ObjectiveConfig):
    """A text-to-text task in a recipe.

    Attributes:
      source: column with what is read.
      target: column with what is to be written.
      prefix: text before every source ("summarize: ").
      length: tokens of a source, special tokens included, longer ones are cut; the model's `max_length` where None.
      target_length: tokens of a target, likewise.
      label_smoothing: share of the target that is spread over the vocabulary while training.
    """

    kind: Literal["seq2seq"] = "seq2seq"
    source: str = "source"
    target: str = "target"
    prefix: str = ""
    length: int | None = None
    target_length: int = 128
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.target_length < 2:
            raise InvalidField("target_length", f"must be at least 2, found {self.target_length}")
        if not 0 <= self.label_smoothing < 1:
            raise InvalidField("label_smoothing", f"must be in [0, 1), found {self.label_smoothing}")

    def text_columns(self) -> tuple[str, ...]:
        """Source and target."""
        return (self.source, self.target)


class Seq2Seq(SequenceToSequence, WritesAnswers):
    """Writes the target of each source."""

    pack = False
    truncate = True
    metrics = (*SequenceToSequence.metrics, *TEXT_METRICS)
    default_metrics = SequenceToSequence.metrics

    def __init__(self, config: Seq2SeqConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length)
        self._config, self.target_length = config, config.target_length
        self.label_smoothing, self.longest_answer = config.label_smoothing, config.target_length
        self.start_ids = (self._decoder_start_id,)
        self._template = seq2seq_template(context.tokenizer, context.is_foreign)
        self.overhead = self._template.overhead

    def fields(self, row: Row) -> Fields:
        """Source and target."""
        target = text_column(row, self._config.target)
        return Fields({**self._source(row), "target": target}, self.kept_answer(target))

    def unlabelled_fields(self, row: Row) -> Fields:
        """The source alone."""
        return Fields({**self._source(row), "target": ""}, self.kept_answer(""))

    def _source(self, row: Row) -> dict[str, str]:
        return {TOKENS: self._config.prefix + text_column(row, self._config.source)}

    def prompt(self, record: Record) -> np.ndarray:
        """The source with what stands around it."""
        return self._template.wrap(record[TOKENS])

    def record_options(self) -> str:
        """The columns and the prefix."""
        kept = " answers" if self.evaluating else ""
        return f"source={self._config.source} target={self._config.target} prefix={self._config.prefix}{kept}"

    def example(self, record: Record, key: np.random.Generator) -> Pair:
        """Source and target, each with what stands around it."""
        target = record["target"][: self.target_length - self._template.overhead]
        return self._template.wrap(record[TOKENS]), self._template.wrap(target)
