"""What the config of every objective says of itself: its columns, stand-ins for its data, and what others call it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from jaxft.data.sources import SourceConfig

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Pooling = Literal["first", "mean", "last"]

_WORD = "word"
_SENTENCE = 16
# How sentence-transformers calls the poolings.
_SENTENCE_POOLINGS = {"first": "cls", "mean": "mean", "last": "last"}


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How the pixels of an image become what a model reads.

    Attributes:
      mean: of each channel, in shares of the brightest, which is taken off; 0.5 where None.
      deviation: by which each channel is then divided, likewise.
    """

    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None


class ObjectiveConfig:
    """Base of the configs of all objectives, which are frozen dataclasses.

    Its answers suit an objective that reads no text and has neither labels nor vectors; a config overrides those that
    are others.

    Attributes:
      kind: what a recipe calls the objective: a field with the name as its type and as its default.
      length: tokens of a row; the model's `max_length` where None.
      problem_type: how transformers calls what a head on whole texts or images learns; None where there is no such.
    """

    kind: str
    length: int | None = None
    problem_type: ClassVar[ProblemType | None] = None

    def text_columns(self) -> tuple[str, ...]:
        """Columns of a source that hold text, lists of words or conversations."""
        return ()

    def label_names(self) -> tuple[str, ...]:
        """Names of the outputs of the head; empty where they have none, or are not known yet."""
        return ()

    def sentence_pooling(self) -> str | None:
        """How sentence-transformers calls what makes a text's vector, `cls`, `mean` or `last`; None where nothing
        does."""
        return None

    def normalization(self) -> Normalization | None:
        """How pixels are normalized; None for objectives without images."""
        return None

    def with_normalization(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Self:
        """The config with how a pretrained model's images are normalized, where it reads images and does not say so.

        Args:
          mean: see `Normalization`.
          deviation: likewise.
        """
        return self

    def head_in_own_units(self, parameters: Mapping[str, Any], head: str) -> Mapping[str, Any]:
        """Parameters of the head that give what the objective predicts in the units of its data.

        Args:
          parameters: tree of the head's arrays.
          head: its name, for messages.

        Raises:
          CheckpointError: the head has no place for what changes the units.
        """
        return parameters

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """A row of a source that stands in for the data.

        Args:
          text: sentences that are to fill every column with text.
          number: of the row; what the config does not know yet, such as labels, is made of it.
        """
        # No two columns alike: answers of which one is preferred must differ.
        return {column: f"{column} {text}" for column in self.text_columns()}

    def specimens(self, length: int, count: int = 2) -> list[dict[str, Any]]:
        """Rows that stand in for the data, with texts that are longer than any row of a batch.

        Args:
          length: tokens of the longest row; texts have four times as many words, as what is cut out of them leaves
            room.
          count: of rows.
        """
        return [self.specimen(_sentences(4 * length), number) for number in range(count)]

    def write_specimens(self, path: pathlib.Path, length: int) -> SourceConfig:
        """Writes rows that stand in for the data, and says how they are read.

        Args:
          path: of the file, without a suffix.
          length: as for `specimens`.
        """
        target = path.with_suffix(".jsonl")
        rows = (json.dumps(row) + "\n" for row in self.specimens(length))
        target.write_text("".join(rows), encoding="utf-8")
        return SourceConfig(jsonl=(str(target),))


class TextConfig(ObjectiveConfig):
    """A config with a column of text.

    Attributes:
      text: the column.
    """

    text: str

    def text_columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.text,)


class TextPairConfig(TextConfig):
    """A config with a column of text, and perhaps a second one.

    Attributes:
      pair: column with the second text, or None.
    """

    pair: str | None

    def text_columns(self) -> tuple[str, ...]:
        """The column, or both."""
        return (self.text,) if self.pair is None else (self.text, self.pair)


class SentenceConfig(TextPairConfig):
    """A config of vectors of sentences.

    Attributes:
      pooling: a sentence's vector is that of its first or last token or the mean over its tokens.
    """

    pooling: Pooling

    def sentence_pooling(self) -> str:
        """The pooling, as sentence-transformers calls it."""
        return _SENTENCE_POOLINGS[self.pooling]


class LabelConfig(ObjectiveConfig):
    """A config of a classifier.

    Attributes:
      labels: all labels in the order of their ids; None where they are to be found in the data.
    """

    labels: tuple[str, ...] | None

    def label_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels or ()

    def specimen_labels(self) -> tuple[str, ...]:
        """Labels of rows that stand in for the data: two where none are known."""
        return self.labels or ("0", "1")


def _sentences(words: int) -> str:
    sentence = " ".join([_WORD] * _SENTENCE) + "."
    return " ".join([sentence] * max(1, words // _SENTENCE))
