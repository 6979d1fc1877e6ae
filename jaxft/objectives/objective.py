"""What every objective offers."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import RecipeError
from jaxft.kernels.cross_entropy import weighted_sums
from jaxft.kernels.shapes import Array, Scalar
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import ModelOutput
from jaxft.models.transformer import Images, Sequences
from jaxft.objectives.config import TextConfig
from jaxft.objectives.shown import ShownRow, shown_tokens


@dataclasses.dataclass(frozen=True)
class ObjectiveContext:
    """What an objective stands in.

    Attributes:
      tokenizer: of the run.
      model: the trunk; its `max_length` is the length of rows where an objective's config has none.
      stream: name of the stream, which names the head of a task: two tasks never share a head.
      decoder_start_id: what a decoder that reads an encoder begins with; None where its weights do not say.
      is_foreign: whether the weights came from Hugging Face, whose tokenizer then says what stands around every text.
    """

    tokenizer: Tokenizer
    model: ModelConfig
    stream: str = "stream"
    decoder_start_id: int | None = None
    is_foreign: bool = False


@flax.struct.dataclass
class Ratio:
    """A sum over a sum, so that any split of the data adds up to the same."""

    sum: jax.Array
    weight: jax.Array


@flax.struct.dataclass
class StreamLoss:
    """Sums over a batch, never means, so that any split of the batch adds up to the same.

    Attributes:
      loss: float32 scalar, sum of the weighted losses in nats.
      weight: float32 scalar, sum of the weights: masked tokens, examples, ...
      tokens: float32 scalar, tokens read, without padding.
      ratios: what is reported besides, such as `accuracy`.
    """

    loss: jax.Array
    weight: jax.Array
    tokens: jax.Array
    ratios: Mapping[str, Ratio]


class FoundInData(abc.ABC):
    """A config with values that are found in the training data where a recipe leaves them out, such as labels."""

    @property
    @abc.abstractmethod
    def is_complete(self) -> bool:
        """Whether nothing is left to be found."""

    @abc.abstractmethod
    def target_of(self, row: Row) -> Any:
        """What a row says of these values.

        Raises:
          DataError: a column is missing or its value cannot be used.
        """

    @abc.abstractmethod
    def completed(self, targets: Iterable[Any], where: str) -> Self:
        """The config with its values.

        Args:
          targets: of all rows that can be used.
          where: what the user calls their source.

        Raises:
          DataError: there are too few of them.
        """


class Apply(abc.ABC):
    """A model with its parameters and random keys bound.

    Attributes:
      key: random key for what an objective samples itself; None where nothing may be random.
      origin: the same model, without dropout and without gradients, with the parameters that the run began with; None
        where nothing in the run asks for it.
    """

    key: jax.Array | None
    origin: Apply | None

    @abc.abstractmethod
    def __call__(
        self,
        sequences: Sequences | Images,
        targets: Sequences | None = None,
        head: str | tuple[str, ...] | None = None,
        gather: jax.Array | None = None,
    ) -> ModelOutput:
        """As `jaxft.models.model.Model.__call__`."""

    def token_sums(
        self,
        labels: jax.Array,
        weights: jax.Array,
        head: str,
        sequences: Sequences,
        targets: Sequences | None = None,
        gather: jax.Array | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """Cross entropy of tokens by a vocabulary head, and how many are guessed, for which nobody needs the logits.

        Args:
          labels: int32 `(batch, length or places)`.
          weights: float32 `(batch, length or places)`, constants.
          head: name of the head.
          sequences: as for a call, like `targets` and `gather`.
          label_smoothing: share of the target that is spread over the vocabulary.

        Returns:
          What `jaxft.kernels.cross_entropy.weighted_sums` does.
        """
        logits = self(sequences, targets, head, gather).logits
        return weighted_sums(logits, labels, weights, label_smoothing=label_smoothing)


class Objective(abc.ABC):
    """An objective, ready for a tokenizer, a model and a length.

    Attributes:
      families: of the models that it can train.
      heads: the heads that it needs, by name, the most telling first; objectives with the same name share the head.
      length: tokens of a row, of the encoder's in an encoder-decoder.
      target_length: tokens of a row of the decoder's in an encoder-decoder, else 0.
      overhead: special tokens that every piece of text brings with it.
      pack: whether several pieces may share a row.
      truncate: whether a long text is cut rather than split into several pieces.
      overlap: tokens that neighbouring pieces of a text share at least.
      partner: whether every example needs another document, as the field `partner` of its record.
      whole_batch: whether the loss compares the examples of a batch, which then cannot be computed in parts.
      augmentable: whether the words of its texts may be changed (`jaxft.data.augmentation`).
      trains: whether there is anything to train; some objectives only measure.
      needs_origin: whether its loss compares the model with what it was at the start (`Apply.origin`).
      predicts: whether it says something of each example (`predictions`); each of its rows then holds one piece.
      writes: whether what it says is written by the model, token by token (`jaxft.objectives.writing`).
      metrics: names of the metrics that its evaluation can report, the most telling first.
      default_metrics: those that it reports where a recipe names none.
      lower_is_better: those of them that are better when lower.
      labels: names of a classifier's outputs; empty for other objectives.
      evaluating: whether it is as evaluation uses it.
    """

    families: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder", "encoder_decoder"})
    target_length: int = 0
    overhead: int = 2
    pack: bool = True
    truncate: bool = False
    overlap: int = 0
    partner: bool = False
    whole_batch: bool = False
    augmentable: bool = False
    trains: bool = True
    needs_origin: bool = False
    predicts: bool = False
    writes: bool = False
    metrics: tuple[str, ...] = ("loss", "perplexity", "accuracy")
    default_metrics: tuple[str, ...] = metrics
    lower_is_better: frozenset[str] = frozenset({"loss", "perplexity", "bits_per_byte", "pseudo_perplexity"})
    labels: tuple[str, ...] = ()
    evaluating: bool = False

    def __init__(self, kind: str, context: ObjectiveContext, length: int | None, heads: Mapping[str, HeadConfig]):
        """
        Args:
          kind: what a recipe calls the objective.
          context: what it stands in.
          length: tokens of a row; the model's `max_length` where None.
          heads: that it needs.

        Raises:
          RecipeError: a model of this family cannot be trained so.
        """
        if context.model.family not in self.families:
            known = " or ".join(sorted(self.families)).replace("_", "-")
            raise RecipeError(f"objective {kind}: needs a model of family {known}, not {context.model.family}")
        self.kind, self.tokenizer, self.heads = kind, context.tokenizer, dict(heads)
        self.length = length or context.model.max_length

    @property
    def head_name(self) -> str:
        """The first of its heads."""
        return next(iter(self.heads))

    @property
    def longest(self) -> int:
        """Tokens of the longest piece of text that a row can hold."""
        return self.length - self.overhead

    def room(self, lengths: np.ndarray) -> np.ndarray:
        """How much of a row, of `length` in all, pieces of so many tokens take."""
        return lengths + self.overhead

    @abc.abstractmethod
    def fields(self, row: Row) -> Fields:
        """What to keep of a row of the source.

        Raises:
          DataError: a column is missing or its value cannot be used.
        """

    @abc.abstractmethod
    def record_options(self) -> str:
        """All options that `fields` depends on, for the fingerprint of the store."""

    @abc.abstractmethod
    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One row of a batch; a pure function on the host (see `jaxft.data.batches.MakeRow`)."""

    def shown(self, row: Batch) -> ShownRow:
        """What a person is shown of a row of a batch: its tokens, where an objective has nothing to add."""
        return ShownRow({"input": shown_tokens(row, self.tokenizer)})

    def balance(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The batch with whatever weights depend on all of it; called before it is computed in parts."""
        return batch

    @abc.abstractmethod
    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """The loss of a balanced batch; pure and differentiable in what `apply` binds."""

    def total(self, means: Mapping[str, float]) -> float:
        """The loss of a whole data set from the means over it of all that `loss` reports."""
        return means["loss"]

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Per-row outputs `(batch, ...)` that metrics beyond `StreamLoss` need; empty where there are none."""
        return {}

    def unlabelled_fields(self, row: Row) -> Fields:
        """As `fields`, of a row that is to be predicted and need not say what is right.

        Raises:
          DataError: as `fields`.
        """
        return self.fields(row)

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """What the model says of each example, ready for JSON; of objectives with `predicts`.

        Args:
          records: of all rows, as `make_row` had them; a long example may have several, one after the other.
          outputs: of `outputs`, for the same rows.
        """
        raise NotImplementedError(f"{self.kind} predicts nothing")

    def references(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """What is right for each example, under the names that `predictions` has; of objectives whose metrics need it.

        Args:
          records: as for `predictions`.
        """
        raise NotImplementedError(f"{self.kind} has no references")

    def for_evaluation(self) -> Self:
        """The same objective with what evaluation fixes (a mask rate that all recipes share, say)."""
        other = copy.copy(self)
        other.evaluating = True
        return other


class ReadsText:
    """What objectives on a column of text keep of a row; for classes that set `_config`."""

    _config: TextConfig

    def fields(self, row: Row) -> Fields:
        """The text alone."""
        return Fields({TOKENS: text_column(row, self._config.text)})

    def record_options(self) -> str:
        """The column."""
        return f"text={self._config.text}"


def count_tokens(*segment_ids: Int[Array, "..."]) -> Scalar:
    """Tokens that are not padding, float32 scalar."""
    first, *others = ((ids > 0).sum(dtype=jnp.float32) for ids in segment_ids)
    return sum(others, first)
