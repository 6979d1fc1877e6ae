"""Extractive question answering: which span of a context answers a question (SQuAD, Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column, text_column
from jaxft.data.store import SPAN_ENDS, SPAN_STARTS, TOKENS, Fields, Record, Value
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.kernels.shapes import Array
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.answer_spans import Span, best_spans
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.rows import examples_of, lay, lay_out
from jaxft.objectives.shown import ShownRow, shown_tokens

_QUESTION, _CONTEXT, _ANSWERS, _START, _END = "question", "context", "answers", "answer_start", "answer_end"
_IMPOSSIBLE = -1e9
# Spans of tokens that are the same text: each of up to four bytes of its first and of its last character.
_SAME_TEXT = 16


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringConfig(ObjectiveConfig):
    """Question answering in a recipe.

    Attributes:
      question: column with the question.
      context: column with the text that holds the answer.
      answers: column with the answers, `[{text, start}, ...]` where `start` counts characters of the context, or
        `{text: [...], answer_start: [...]}`; the first one is learned, each is right.
      length: tokens of a row, special tokens included; longer contexts are read in windows; the model's `max_length`
        where None.
      question_length: tokens that are kept for the question; a longer one is an error, as questions are not cut.
      stride: tokens that neighbouring windows share at least.
      answer_length: most tokens of an answer.
      unanswerable: whether a question may have no answer, as in SQuAD 2.
      null_threshold: how much better the score of no answer must be than that of the best one.
      n_best: answers that a prediction lists, the best first.
      dropout: rate before the last projection.
    """

    kind: Literal["question_answering"] = "question_answering"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    length: int | None = None
    question_length: int = 64
    stride: int = 128
    answer_length: int = 30
    unanswerable: bool = False
    null_threshold: float = 0.0
    n_best: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("question_length", 1), ("stride", 0), ("answer_length", 1), ("n_best", 1)):
            if getattr(self, name) < least:
                raise InvalidField(name, f"must be at least {least}, found {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InvalidField("dropout", f"must be in [0, 1), found {self.dropout}")

    def text_columns(self) -> tuple[str, ...]:
        """The question and the context."""
        return (self.question, self.context)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """A question of one word, which the context begins with."""
        word, _, _ = text.partition(" ")
        return {self.question: word, self.context: text, self.answers: [{"text": word, "start": 0}]}


class QuestionAnswering(Objective):
    """Predicts where the answer starts and ends; the row's first token stands for no answer in its window."""

    families = frozenset({"encoder", "decoder"})
    pack = False
    predicts = True
    default_metrics = ("loss", "exact_match", "answer_f1", "accuracy")
    metrics: tuple[str, ...] = (*default_metrics, "cmrc_exact_match", "cmrc_f1")
    lower_is_better = frozenset({"loss"})

    def __init__(self, config: QuestionAnsweringConfig, context: ObjectiveContext):
        head = HeadConfig("question_answering", 2, None, "none", dropout=config.dropout)
        super().__init__(config.kind, context, config.length, {context.stream: head})
        if context.tokenizer.start_id is None and context.model.family == "encoder":
            raise RecipeError(f"objective {config.kind}: this tokenizer has no start token (CLS or BOS)")
        self._config, self.overlap = config, config.stride
        template = context.tokenizer.template
        self.overhead = template.pair_overhead
        # Tokens before a window of the context, besides those of the question.
        self._before = sum(len(fixed.ids) for fixed in template.pair[:2])
        if self.longest <= config.stride:
            raise RecipeError(
                f"objective {config.kind}: rows of {self.length} tokens leave {self.longest} for the context beside a "
                f"question of {config.question_length}, which must be more than stride {config.stride}"
            )
        if config.unanswerable:
            self.metrics = (*self.metrics, "best_null_threshold")

    @property
    def longest(self) -> int:
        """Tokens of a context that a row can hold."""
        return self.length - self.overhead - self._config.question_length

    def room(self, lengths: np.ndarray) -> np.ndarray:
        """See `Objective.room`; as if every question were as long as it may be."""
        return lengths + self.overhead + self._config.question_length

    def fields(self, row: Row) -> Fields:
        """Question and context, and the answers with the place of the first one."""
        config = self._config
        context = text_column(row, config.context)
        answers = answers_of(row, config.answers, context)
        if not answers and not config.unanswerable:
            problem = "the question has no answer; set `unanswerable: true` where that may be"
            raise DataError(f"{row.location}: {problem}", "no_answer")
        text, start = answers[0] if answers else ("", -1)
        return self._fields(row, context, [answer for answer, _ in answers], start, start + len(text))

    def unlabelled_fields(self, row: Row) -> Fields:
        """Question and context."""
        return self._fields(row, text_column(row, self._config.context), [], -1, -1)

    def _fields(self, row: Row, context: str, answers: list[str], start: int, end: int) -> Fields:
        values: dict[str, Value] = {_CONTEXT: context, _ANSWERS: list(dict.fromkeys(answers)), _START: start, _END: end}
        texts = {TOKENS: context, _QUESTION: text_column(row, self._config.question)}
        check = functools.partial(_check, self._config, row.location, start, end)
        return Fields(texts, values, spans=True, check=check)

    def record_options(self) -> str:
        """The columns, and what is refused."""
        config = self._config
        columns = f"question={config.question} context={config.context} answers={config.answers}"
        return f"{columns} question_length={config.question_length} unanswerable={config.unanswerable}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A question with a window of its context.

        Returns:
          `token_ids`, `segment_ids`, `token_types` int32 `(length,)`; `eligible` float32 `(length,)`: 1 where an answer
          may start and end, and for the first token; `start` and `end` int32 `()`, 0 where the window has no answer.
        """
        (record,), tokenizer = records, self.tokenizer
        ids, types = tokenizer.template.row(record[_QUESTION], record[TOKENS])
        row = lay_out([ids], self.length, tokenizer.pad_id)
        del row["positions"]
        written = record[SPAN_STARTS] < record[SPAN_ENDS]
        first, last = _answer_tokens(record, written)
        begin = self._before + len(record[_QUESTION])
        offset = 0 if first < 0 else begin
        return {
            **row,
            "token_types": lay([types], self.length),
            "eligible": lay([np.ones(1), np.zeros(begin - 1), written], self.length, dtype=np.float32),
            "start": np.array(max(first, 0) + offset, np.int32),
            "end": np.array(max(last, 0) + offset, np.int32),
        }

    def shown(self, row: Batch) -> ShownRow:
        """The question and its window, in which the answer is marked."""
        places = np.arange(self.length)
        answer = (row["start"] > 0) & (row["start"] <= places) & (places <= row["end"])
        return ShownRow({"input": shown_tokens(row, self.tokenizer, predicted=answer)})

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Mean of the cross entropies of start and end, one weight for each window; `accuracy`: both are right."""
        start, end = self._logits(apply, batch)
        weights = batch["row_weight"]
        losses = (cross_entropy(start, batch["start"]) + cross_entropy(end, batch["end"])) / 2
        hits = is_first(start, batch["start"]) * is_first(end, batch["end"])
        accuracy = Ratio((hits * weights).sum(), weights.sum())
        return StreamLoss(
            (losses * weights).sum(), weights.sum(), count_tokens(batch["segment_ids"]), {"accuracy": accuracy}
        )

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`start` and `end`, float32 logits `(batch, length)`, very small where no answer may be."""
        start, end = self._logits(apply, batch)
        return {"start": start, "end": end}

    def _logits(
        self, apply: Apply, batch: Mapping[str, jax.Array]
    ) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
        types = batch["token_types"]
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], token_types=types, padded=True)
        logits = apply(sequences, head=self.head_name).logits
        masked = jnp.where(batch["eligible"][..., None] > 0, logits, _IMPOSSIBLE)
        return masked[..., 0], masked[..., 1]

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`answer`, an exact part of the context (empty: none), its `answer_start` in characters and `score`.

        Of all windows the span with the largest sum of both logits is taken; `score` is its share of the exponentials
        of such sums, over all starts and ends. With `unanswerable` also `null_difference`: by how much no answer scores
        better, at least over all windows; with `n_best` also `candidates`.
        """
        return [self._prediction(records, outputs, rows) for rows in examples_of(records)]

    def _prediction(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray], rows: range) -> dict[str, Any]:
        config, found, nulls, totals = self._config, [], [], []
        count = config.n_best * _SAME_TEXT if config.n_best > 1 else 1
        for row in rows:
            record, start, end = records[row], outputs["start"][row], outputs["end"][row]
            offset = self._before + len(record[_QUESTION])
            inside = slice(offset, offset + len(record[TOKENS]))
            nulls.append(float(start[0] + end[0]))
            totals.append(special.logsumexp(start) + special.logsumexp(end))
            for span in best_spans(start[inside], end[inside], config.answer_length, count):
                if span.score > _IMPOSSIBLE / 2:
                    found.append(_located(span, record))
        found = _different(found)[: config.n_best]
        for one in found:
            one["score"] = round(float(np.exp(one["logit"] - special.logsumexp(totals))), 6)
        nothing: dict[str, Any] = {"answer": "", "answer_start": -1, "score": 0.0, "logit": _IMPOSSIBLE}
        best, told = found[0] if found else nothing, ("answer", "answer_start", "score")
        difference = min(nulls) - best["logit"]
        prediction: dict[str, Any] = {name: best[name] for name in told}
        if config.unanswerable:
            if difference > config.null_threshold:
                prediction |= {"answer": "", "answer_start": -1}
            prediction |= {"null_difference": round(difference, 6), "best_answer": best["answer"]}
        if config.n_best > 1:
            prediction["candidates"] = [{name: one[name] for name in told} for one in found]
        return prediction

    def references(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """The right `answers` of each question; none where it has none."""
        return [{"answers": records[rows[0]][_ANSWERS]} for rows in examples_of(records)]


def answers_of(row: Row, column: str, context: str) -> list[tuple[str, int]]:
    """The answers of a question with their starts in the context.

    Raises:
      DataError: the column is missing, is of none of the two forms (`not_answers`), or an answer does not stand where
        it should (`answer_not_found`).
    """
    given = required_column(row, column)
    if isinstance(given, Mapping) and {"text", "answer_start"} <= set(given):
        given = [
            {"text": text, "start": start} for text, start in zip(given["text"], given["answer_start"], strict=False)
        ]
    answers = []
    for answer in [] if given is None else given:
        text, start = (answer.get("text"), answer.get("start")) if isinstance(answer, Mapping) else (None, None)
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, (int, np.integer)):
            problem = f"must hold answers like {{text: ..., start: 12}}; found {answer!r:.60}"
            raise DataError(f"{row.location}: column {column!r} {problem}", "not_answers")
        if not text or start < 0 or not context.startswith(text, int(start)):
            problem = f"the answer {text!r:.60} does not stand at character {start} of the context"
            raise DataError(f"{row.location}: {problem}", "answer_not_found")
        answers.append((text, int(start)))
    return answers


def _check(config: QuestionAnsweringConfig, location: str, start: int, end: int, record: Record) -> None:
    """Whether a row can hold the question, and tokens the answer."""
    count = len(record[_QUESTION])
    if count > config.question_length:
        problem = f"the question has {count} tokens, more than question_length {config.question_length}"
        raise DataError(f"{location}: {problem}, which may be raised", "question_too_long")
    if start >= 0 and not ((record[SPAN_STARTS] < end) & (record[SPAN_ENDS] > start)).any():
        raise DataError(f"{location}: the tokenizer makes no token of the answer", "answer_without_tokens")


def _answer_tokens(record: Record, written: np.ndarray) -> tuple[int, int]:
    """First and last token of a piece that cover the answer; -1 where it has none or does not hold it whole."""
    start, end = record[_START], record[_END]
    starts, ends = record[SPAN_STARTS], record[SPAN_ENDS]
    covering = np.flatnonzero(written & (starts < end) & (ends > start))
    places = np.flatnonzero(written)
    if start < 0 or not len(covering):
        return -1, -1
    whole = (record["begins"] or starts[places[0]] <= start) and (record["ends"] or ends[places[-1]] >= end)
    return (int(covering[0]), int(covering[-1])) if whole else (-1, -1)


def _located(span: Span, record: Record) -> dict[str, Any]:
    start, end = int(record[SPAN_STARTS][span.first]), int(record[SPAN_ENDS][span.last])
    return {"answer": record[_CONTEXT][start:end], "answer_start": start, "logit": span.score}


def _different(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first, and each place of the context once, though several windows hold it."""
    best: dict[tuple[int, int], dict[str, Any]] = {}
    for one in sorted(found, key=lambda one: -one["logit"]):
        best.setdefault((one["answer_start"], len(one["answer"])), one)
    return list(best.values())
