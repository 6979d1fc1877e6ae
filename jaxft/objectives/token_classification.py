"""Classification of words: named entities, parts of speech."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column
from jaxft.data.store import SPAN_ENDS, SPAN_STARTS, TOKENS, Fields, Record, Value
from jaxft.data.tags import OUTSIDE, TagSet
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.kernels.shapes import Array
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.config import LabelConfig
from jaxft.objectives.objective import Apply, FoundInData, Objective, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.rows import examples_of, lay, lay_out
from jaxft.objectives.shown import ShownRow, shown_tokens

_logger = logging.getLogger("jaxft")

_TEXT, _WORD_STARTS, _TAGS = "text", "word_starts", "tags"


@dataclasses.dataclass(frozen=True)
class TokenClassificationConfig(FoundInData, LabelConfig):
    """Token classification in a recipe.

    Attributes:
      tokens: column with the words of a sentence, a list of texts.
      tags: column with a tag for each word: `B-person`, `O`, `NOUN` ...
      labels: all tags in the order of their ids; found in the training data where None.
      length: tokens of a row, special tokens included, longer sentences are split; the model's `max_length` where None.
      labelled: which of a word's sub-words bear its tag, and are read for it.
      dropout: rate before the last projection.
    """

    kind: Literal["token_classification"] = "token_classification"
    tokens: str = "tokens"
    tags: str = "tags"
    labels: tuple[str, ...] | None = None
    length: int | None = None
    labelled: Literal["first", "last", "all"] = "first"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.labels is not None and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise InvalidField("labels", f"must be at least two different tags, found {list(self.labels)}")
        if not 0 <= self.dropout < 1:
            raise InvalidField("dropout", f"must be in [0, 1), found {self.dropout}")

    def text_columns(self) -> tuple[str, ...]:
        """The column of words."""
        return (self.tokens,)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """Words that all have the same tag."""
        words, labels = text.split(), self.specimen_labels()
        return {self.tokens: words, self.tags: [labels[number % len(labels)]] * len(words)}

    @property
    def is_complete(self) -> bool:
        """Whether the tags are known."""
        return self.labels is not None

    def target_of(self, row: Row) -> tuple[str, ...]:
        """The tags of a sentence."""
        return tags_of(row, self.tags, len(words_of(row, self.tokens)))

    def completed(self, targets: Iterable[tuple[str, ...]], where: str) -> TokenClassificationConfig:
        """With all tags that occur, sorted, `O` first; tells how many begin an entity without a `B-`."""
        targets = list(targets)
        found = {tag for tags in targets for tag in tags}
        if len(found) < 2:
            problem = f"only the tag {found.pop()!r}" if found else "no examples"
            raise DataError(f"{where}: column {self.tags!r} holds {problem}; a classifier needs at least two tags")
        labels = tuple(sorted(found, key=lambda tag: (tag != OUTSIDE, tag)))
        known, numbers = TagSet(labels), {label: number for number, label in enumerate(labels)}
        flaws = sum(int(known.flaws(np.array([numbers[tag] for tag in tags])).sum()) for tags in targets)
        if flaws:
            problem = "entities begin without a B-, which is put in place of their first tag"
            _logger.warning("%s: %d %s", where, flaws, problem)
        return dataclasses.replace(self, labels=labels)


def words_of(row: Row, column: str) -> list[str]:
    """The words of a sentence, without whitespace around them.

    Raises:
      DataError: the column is missing (`missing_column`), is no list of texts (`not_words`), or has no word
        (`empty_text`) or one that is empty (`empty_word`).
    """
    words = _listed(row, column)
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"{row.location}: column {column!r} must be a list of texts", "not_words")
    if not words:
        raise DataError(f"{row.location}: column {column!r} has no words", "empty_text")
    words = [word.strip() for word in words]
    if "" in words:
        where = words.index("") + 1
        raise DataError(f"{row.location}: word {where} of {len(words)} in column {column!r} is empty", "empty_word")
    return words


def tags_of(row: Row, column: str, count: int) -> tuple[str, ...]:
    """The tags of a sentence of `count` words.

    Raises:
      DataError: the column is missing, is no list of tags (`not_a_label`), or their number is another
        (`wrong_number_of_tags`).
    """
    tags = _listed(row, column)
    if not all(isinstance(tag, (str, int)) and tag != "" for tag in tags):
        raise DataError(f"{row.location}: column {column!r} must be a list of tags (text or numbers)", "not_a_label")
    if len(tags) != count:
        problem = f"{count} words, but {len(tags)} tags in column {column!r}"
        raise DataError(f"{row.location}: {problem}", "wrong_number_of_tags")
    return tuple(map(str, tags))


def _listed(row: Row, column: str) -> list[Any]:
    values = required_column(row, column)
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        problem = f"must be a list, one entry for each word; found {values!r:.60}"
        raise DataError(f"{row.location}: column {column!r} {problem}", "not_words")
    return list(values)


class TokenClassification(Objective):
    """Predicts a tag for each word."""

    families = frozenset({"encoder", "decoder"})
    pack = False
    predicts = True
    lower_is_better = frozenset({"loss", "repaired_tags"})

    def __init__(self, config: TokenClassificationConfig, context: ObjectiveContext):
        labels = config.label_names()
        head = HeadConfig("token_classification", len(labels), None, "none", dropout=config.dropout)
        super().__init__(config.kind, context, config.length, {context.stream: head})
        self._config, self.labels, self.tag_set = config, labels, TagSet(labels)
        self.overhead = context.tokenizer.template.overhead
        self._ids = {label: number for number, label in enumerate(self.labels)}
        self.metrics = self.default_metrics = ("loss", "accuracy")
        if self.tag_set.types:
            self.default_metrics = ("loss", "entity_f1", "entity_precision", "entity_recall", "accuracy")
            self.metrics = (*self.default_metrics, "entity_macro_f1", "entity_report", "repaired_tags")

    def fields(self, row: Row) -> Fields:
        """The sentence with a space between words, where its words begin, and the numbers of their tags."""
        words = words_of(row, self._config.tokens)
        tags = tags_of(row, self._config.tags, len(words))
        for word, tag in zip(words, tags, strict=True):
            if tag not in self._ids:
                known = ", ".join(self.labels[:20])
                problem = f"tag {tag!r} of {word!r} was not seen in training, which has {known}"
                raise DataError(f"{row.location}: {problem}", "unknown_label")
        return self._fields(words, self.tag_set.repaired(np.array([self._ids[tag] for tag in tags])))

    def unlabelled_fields(self, row: Row) -> Fields:
        """The sentence alone."""
        words = words_of(row, self._config.tokens)
        return self._fields(words, np.zeros(len(words), np.int32))

    def _fields(self, words: list[str], tags: np.ndarray) -> Fields:
        text = " ".join(words)
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
        values: dict[str, Value] = {_TEXT: text, _WORD_STARTS: starts.astype(np.int32), _TAGS: tags.astype(np.int32)}
        return Fields({TOKENS: text}, values, spans=True)

    def record_options(self) -> str:
        """The columns and the tags."""
        config = self._config
        return f"tokens={config.tokens} tags={config.tags} labels={self.labels}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A sentence or a piece of one: `token_ids`, `segment_ids`, `tags` int32 and `tag_weights` float32."""
        (record,) = records
        template = self.tokenizer.template
        row = lay_out([template.wrap(record[TOKENS])], self.length, self.tokenizer.pad_id)
        del row["positions"]
        words, labelled = self._labelled(record)
        before = np.zeros(len(template.before.ids))
        return {
            **row,
            "tags": lay([before, record[_TAGS][words] * labelled], self.length),
            "tag_weights": lay([before, labelled], self.length, dtype=np.float32),
        }

    def shown(self, row: Batch) -> ShownRow:
        """The sentence with the tags of its words."""
        places = np.flatnonzero(row["tag_weights"] > 0).tolist()
        tags = {place: self.labels[row["tags"][place]] for place in places}
        return ShownRow({"input": shown_tokens(row, self.tokenizer, tags)})

    def _labelled(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """The word of each token, and which tokens bear its tag."""
        starts, ends, word_starts = record[SPAN_STARTS], record[SPAN_ENDS], record[_WORD_STARTS]
        words = np.searchsorted(word_starts, starts, side="right") - 1
        written = starts < ends
        if self._config.labelled == "all":
            return words, written
        places = np.flatnonzero(written)
        own, labelled = words[places], np.zeros(len(words), bool)
        changes = own[1:] != own[:-1]
        # A piece may begin within a word whose first token stands in the piece before, and end within one likewise.
        if self._config.labelled == "first":
            edge = record["begins"] or starts[places[:1]] <= word_starts[own[:1]]
            labelled[places] = np.append(edge, changes)[: len(places)]
        else:
            word_ends = np.append(word_starts[1:] - 1, len(record[_TEXT]))
            edge = record["ends"] or ends[places[-1:]] >= word_ends[own[-1:]]
            labelled[places] = np.append(changes, edge)[: len(places)]
        return words, labelled

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the tags, one weight for each labelled token."""
        logits, weights = self._logits(apply, batch), batch["tag_weights"] * batch["row_weight"][:, None]
        losses = cross_entropy(logits, batch["tags"])
        accuracy = Ratio((is_first(logits, batch["tags"]) * weights).sum(), weights.sum())
        return StreamLoss(
            (losses * weights).sum(), weights.sum(), count_tokens(batch["segment_ids"]), {"accuracy": accuracy}
        )

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`probabilities` of the tags of each token, float32 `(batch, length, labels)`."""
        return {"probabilities": jax.nn.softmax(self._logits(apply, batch))}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`tags` of the words, and `entities` where the tags are of such: type, first word `start`, `end` (one past the
        last), text and mean probability of its tags."""
        return [self._prediction(records, outputs["probabilities"], rows) for rows in examples_of(records)]

    def _prediction(self, records: Sequence[Record], probabilities: np.ndarray, rows: range) -> dict[str, Any]:
        record = records[rows[0]]
        totals = np.zeros((len(record[_WORD_STARTS]), len(self.labels)))
        counts = np.zeros(len(totals), np.int64)
        start = len(self.tokenizer.template.before.ids)
        for row in rows:
            words, labelled = self._labelled(records[row])
            own = probabilities[row, start : start + len(words)]
            np.add.at(totals, words[labelled], own[labelled])
            counts += np.bincount(words[labelled], minlength=len(totals))
        # A word that the tokenizer drops (an invisible character) is outside.
        totals[counts == 0, self._ids.get(OUTSIDE, 0)] = 1.0
        tags = totals.argmax(-1)
        prediction: dict[str, Any] = {"tags": [self.labels[tag] for tag in tags]}
        if self.tag_set.types:
            scores = totals.max(-1) / np.maximum(counts, 1)
            prediction["entities"] = [
                self._entity(record, scores, *entity) for entity in self.tag_set.entities(tags).tolist()
            ]
        return prediction

    def _entity(self, record: Record, scores: np.ndarray, kind: int, start: int, end: int) -> dict[str, Any]:
        text, starts = record[_TEXT], record[_WORD_STARTS]
        stop = int(starts[end]) - 1 if end < len(starts) else len(text)
        score = round(float(scores[start:end].mean()), 6)
        return {
            "type": self.tag_set.types[kind],
            "start": start,
            "end": end,
            "text": text[int(starts[start]) : stop],
            "score": score,
        }

    def references(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """The right `tags` of each sentence."""
        return [{"tags": [self.labels[tag] for tag in records[rows[0]][_TAGS]]} for rows in examples_of(records)]

    def _logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> Float[Array, "batch length labels"]:
        return apply(Sequences(batch["token_ids"], batch["segment_ids"], padded=True), head=self.head_name).logits
