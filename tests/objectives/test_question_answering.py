"""Question answering: windows, where answers stand in them, and how windows' answers are joined."""

from __future__ import annotations

import itertools
import pathlib

import jax
import numpy as np
import pytest
from stored import stored
from support.settings import setting_of

from jaxft.data.sources import Row, SourceConfig, read_rows
from jaxft.data.store import SPAN_STARTS, TOKENS
from jaxft.data.tokenizers import ByteBPEConfig, SentencePieceConfig, WordPieceConfig, train_tokenizer
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.objectives.answer_spans import best_spans
from jaxft.objectives.question_answering import QuestionAnswering, QuestionAnsweringConfig, answers_of
from jaxft.training.step import bind

CONTEXT = "Ada Lovelace was born in London. She wrote the first program in 1843."


def make(tokenizer, length=64, family="encoder", **options) -> QuestionAnswering:
    config = QuestionAnsweringConfig(**{"question_length": 24, "stride": 8, "dropout": 0.0, **options})
    return QuestionAnswering(config, setting_of(tokenizer, length, "task", family=family))


def row_of(*answers: str, context=CONTEXT, question="Where?") -> Row:
    found = [{"text": answer, "start": context.index(answer)} for answer in answers]
    return Row({"context": context, "question": question, "answers": found}, "a.json:1")


@pytest.fixture(scope="session", params=["unigram", "bytes", "wordpiece", "byte_bpe"])
def any_tokenizer(request, addresses, poems, tmp_path_factory):
    """Of English and Chinese."""
    config = {
        "unigram": SentencePieceConfig(vocab_size=2000, character_coverage=0.98),
        "bytes": SentencePieceConfig(vocab_size=600, byte_fallback=True, character_coverage=0.98),
        "wordpiece": WordPieceConfig(vocab_size=3000),
        "byte_bpe": ByteBPEConfig(vocab_size=600),
    }[request.param]
    return train_tokenizer([*addresses, *poems], config, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=["en", "zh"])
def questions(request, shared_data) -> list[Row]:
    source = SourceConfig(squad=(str(shared_data / "qa" / f"xquad_{request.param}.json"),), limit=60)
    return list(read_rows(source, pathlib.Path()))


def perfect(batch, noise: float = 0.0) -> dict[str, np.ndarray]:
    """What a model that knows all answers would say of windows."""
    random, found = np.random.default_rng(0), {}
    for name in ("start", "end"):
        logits = noise * random.random(batch["eligible"].shape)
        logits[np.arange(len(logits)), batch[name]] += np.where(batch[name] > 0, 9.0, 5.0)
        found[name] = np.where(batch["eligible"] > 0, logits, -1e9).astype(np.float32)
    return found


# --- Windows ---


@pytest.mark.parametrize("length", [128, 512])
def test_perfect_logits_give_the_answers_back(any_tokenizer, questions, length, tmp_path):
    """Through every tokenizer's normalization and over windows: a part of the context as it is written."""
    objective = make(any_tokenizer, length, question_length=80, stride=24, answer_length=100, n_best=3)
    rows = [row for row in questions if len(any_tokenizer.encode([row.values["question"]])[0]) <= 80]
    records, batch = stored(objective, rows, tmp_path / "store")
    assert len(rows) > 40 and (length > 128 or len(records) > 2 * len(rows))
    said, right = objective.predictions(records, perfect(batch, 1.0)), objective.references(records)
    found = 0
    for row, own, reference in zip(rows, said, right, strict=True):
        answer, context = row.values["answers"][0], row.values["context"]
        assert reference["answers"][0] == answer["text"]
        if own["score"] < 0.5:  # no window holds the whole answer, so none points to it
            continue
        found += 1
        # All of the tokens that have a part in it: an answer may begin or end within a token.
        _, spans = any_tokenizer.encode_with_spans([context])[0]
        start, end = answer["start"], answer["start"] + len(answer["text"])
        inside = spans[(spans[:, 0] < end) & (spans[:, 1] > start) & (spans[:, 0] < spans[:, 1])]
        assert own["answer"] == context[inside[0, 0] : inside[-1, 1]]
        assert own["answer_start"] == inside[0, 0] <= start and end <= inside[-1, 1]
        assert own["candidates"][0]["answer"] == own["answer"] and len(own["candidates"]) == 3
        assert own["candidates"][0]["score"] >= own["candidates"][1]["score"] >= own["candidates"][2]["score"]
    assert found > 0.8 * len(rows)


def test_windows_keep_the_question_and_cover_the_context(any_tokenizer, tmp_path):
    rows = [row_of("London", context=CONTEXT * count, question="Where was she born?") for count in (1, 2, 5)]
    objective = make(any_tokenizer, 64)
    records, batch = stored(objective, rows, tmp_path / "store")
    (question,) = any_tokenizer.encode(["Where was she born?"])
    begin = [*([] if any_tokenizer.start_id is None else [any_tokenizer.start_id]), *question.tolist()]
    begin.append(any_tokenizer.separator_id)
    for record, ids, segments, types in zip(
        records, batch["token_ids"], batch["segment_ids"], batch["token_types"], strict=True
    ):
        window = [*record[TOKENS].tolist(), any_tokenizer.separator_id]
        assert ids[segments > 0].tolist() == begin + window
        assert types[segments > 0].tolist() == [0] * len(begin) + [1] * len(window)
    begins = [number for number, record in enumerate(records) if record["begins"]]
    for row, start, stop in zip(rows, begins, [*begins[1:], len(records)], strict=True):
        ids, spans = any_tokenizer.encode_with_spans([row.values["context"]])[0]
        seen = np.concatenate([record[SPAN_STARTS] for record in records[start:stop]])
        assert set(seen.tolist()) == set(spans[:, 0].tolist())
        assert len(seen) - len(ids) >= (stop - start - 1) * 8
    assert len(records) > 6


def test_a_window_points_to_its_answer_only_if_it_holds_all_of_it(tokenizer, tmp_path):
    answer, context = "born in London. She wrote the first", CONTEXT + " She knew Charles Babbage." * 4
    objective = make(tokenizer, 64, stride=4)
    records, batch = stored(objective, [row_of(answer, context=context)], tmp_path / "store")
    context_ids, spans = tokenizer.encode_with_spans([context])[0]
    begin, end = context.index(answer), context.index(answer) + len(answer)
    inside = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > begin))
    pointing = 0
    for record, first, last, ids in zip(records, batch["start"], batch["end"], batch["token_ids"], strict=True):
        window = record[TOKENS].tolist()
        offset = next(i for i in range(len(context_ids)) if context_ids[i : i + len(window)].tolist() == window)
        holds = offset <= inside[0] and inside[-1] < offset + len(window)
        assert (first > 0) == (last > 0) == holds
        if holds:
            pointing += 1
            assert ids[first : last + 1].tolist() == context_ids[inside].tolist()
    assert 0 < pointing < len(records)


def test_an_answer_within_a_token_is_covered_by_it(tmp_path, addresses, tmp_path_factory):
    tokenizer = train_tokenizer(addresses, WordPieceConfig(vocab_size=2000), tmp_path_factory.mktemp("words"))
    context = "the government of the people"
    objective = make(tokenizer)
    row = Row({"context": context, "question": "what?", "answers": [{"text": "over", "start": 5}]}, "x")
    records, batch = stored(objective, [row], tmp_path / "store")
    assert len(tokenizer.encode(["government"])[0]) == 1
    assert objective.predictions(records, perfect(batch))[0]["answer"] == "government"


# --- Spans ---


@pytest.mark.parametrize("seed", range(10))
def test_the_best_spans_are_those_of_a_search_through_all(seed):
    rng = np.random.default_rng(seed)
    starts, ends, longest = rng.normal(size=12), rng.normal(size=12), int(rng.integers(1, 16))
    allowed = [(i, j) for i, j in itertools.product(range(12), repeat=2) if i <= j < i + longest]
    ordered = sorted(allowed, key=lambda pair: -(starts[pair[0]] + ends[pair[1]]))
    for count in (1, 4, 1000):
        found = best_spans(starts, ends, longest, count)
        assert [(span.first, span.last) for span in found] == ordered[:count]
        assert [span.score for span in found] == pytest.approx([starts[i] + ends[j] for i, j in ordered[:count]])
    assert best_spans(starts[:0], ends[:0], longest, 1) == []


def test_an_answer_neither_crosses_windows_nor_leaves_the_context(tokenizer, tmp_path):
    """Logits that want the question, padding or an end before its start."""
    objective = make(tokenizer, 64, answer_length=5)
    records, batch = stored(objective, [row_of("London")], tmp_path / "store")
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = {name: 9 * rng.normal(size=batch["eligible"].shape) for name in ("start", "end")}
        masked = {name: np.where(batch["eligible"] > 0, logits, -1e9) for name, logits in noise.items()}
        (said,) = objective.predictions(records, masked)
        assert said["answer"] and CONTEXT[said["answer_start"] :].startswith(said["answer"])
        assert len(tokenizer.encode([said["answer"]])[0]) <= 6


def test_no_answer_is_given_where_it_scores_better(tokenizer, tmp_path):
    rows = [row_of("London"), row_of(), row_of("1843")]
    for threshold, expected in ((0.0, ["London", "", "1843"]), (100.0, ["London", "*", "1843"]), (-100.0, [""] * 3)):
        objective = make(tokenizer, unanswerable=True, null_threshold=threshold)
        records, batch = stored(objective, rows, tmp_path / str(threshold))
        said = objective.predictions(records, perfect(batch, 0.1))
        for own, answer in zip(said, expected, strict=True):
            assert own["answer"] == answer or (answer == "*" and own["answer"])
            assert own["best_answer"] and (own["answer_start"] < 0) == (own["answer"] == "")
        # No answer counts for a question only where no window has one.
        assert [own["null_difference"] > 0 for own in said] == [False, True, False]
        assert objective.references(records)[1] == {"answers": []}


# --- Rows that cannot be used ---


def test_answers_come_in_two_forms():
    lists = {"text": ["London", "1843"], "answer_start": [CONTEXT.index("London"), CONTEXT.index("1843")]}
    both = [
        answers_of(Row({"answers": given}, "x"), "answers", CONTEXT)
        for given in (lists, row_of("London", "1843").values["answers"])
    ]
    assert both[0] == both[1] == [("London", 25), ("1843", 64)]


@pytest.mark.parametrize(
    ("answers", "reason", "message"),
    [
        ([{"text": "Paris", "start": 0}], "answer_not_found", "the answer 'Paris' does not stand at character 0"),
        ([{"text": "London", "start": -3}], "answer_not_found", "does not stand"),
        (["London"], "not_answers", "must hold answers like"),
        ([{"text": "London"}], "not_answers", "must hold answers like"),
        ([], "no_answer", "unanswerable: true"),
        (None, "no_answer", "unanswerable: true"),
    ],
)
def test_answers_that_cannot_be_used_are_named(tokenizer, answers, reason, message):
    row = Row({"context": CONTEXT, "question": "Where?", "answers": answers}, "a.json:9")
    with pytest.raises(DataError, match=rf"a\.json:9: .*{message}") as raised:
        make(tokenizer).fields(row)
    assert raised.value.reason == reason


def test_a_question_that_does_not_fit_is_an_error(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"the question has \d+ tokens, more than question_length 24") as raised:
        stored(make(tokenizer), [row_of("London", question="where " * 30)], tmp_path / "store")
    assert raised.value.reason == "question_too_long"


def test_settings_that_leave_no_room_are_refused(tokenizer):
    with pytest.raises(RecipeError, match=r"leave 5 for the context .* must be more than stride 8"):
        make(tokenizer, 32)
    for name, value in (("stride", -1), ("n_best", 0), ("answer_length", 0), ("question_length", 0), ("dropout", 1.0)):
        with pytest.raises(InvalidField, match=name):
            QuestionAnsweringConfig(**{name: value})


def test_everything_that_the_records_depend_on_is_in_their_options(tokenizer):
    options = [{}, {"question": "a"}, {"context": "b"}, {"answers": "c"}, {"unanswerable": True}]
    options.append({"question_length": 20})
    assert len({make(tokenizer, **one).record_options() for one in options}) == len(options)


# --- The loss ---


def test_the_loss_is_the_mean_over_start_and_end_of_real_windows(tokenizer, make_model, tmp_path):
    objective = make(tokenizer, 64)
    _, batch = stored(objective, [row_of("London"), row_of("1843"), row_of("Ada")], tmp_path / "store")
    batch["row_weight"][-1] = 0
    model, parameters = make_model(objective, layers=1)
    parameters = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, parameters)
    apply = bind(model, parameters)
    part, outputs = jax.device_get(jax.jit(lambda b: (objective.loss(apply, b), objective.outputs(apply, b)))(batch))
    rows, losses, hits = np.arange(len(batch["start"])), 0.0, 1.0
    for name in ("start", "end"):
        logits = outputs[name].astype(np.float64)
        assert (logits[batch["eligible"] == 0] < -1e8).all()
        shares = np.exp(logits - logits.max(1, keepdims=True))
        losses += -np.log(shares[rows, batch[name]] / shares.sum(1)) / 2
        hits *= logits.argmax(1) == batch[name]
    assert part.loss == pytest.approx((losses * batch["row_weight"]).sum(), rel=1e-4)
    assert part.weight == len(rows) - 1 and part.ratios["accuracy"].sum == (hits * batch["row_weight"]).sum()
