"""Conversations: the loss is on the assistant's turns, and no example is without any."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from handmade import row_of
from support.settings import setting_of

from jaxft.data.packing import plan_rows
from jaxft.data.preparing import BadRowsConfig, Preparation, open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import LEARNED, TOKENS, cut
from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.objectives.instruction import Conversation, InstructionConfig
from jaxft.objectives.registry import make_objective

LENGTH = 96
SHORT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So it is."}]
LONG = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is the state of the Union?"},
    {"role": "assistant", "content": "The state of the Union is strong."},
    {"role": "user", "content": "What is the state of the Union, and why is it so?"},
    {"role": "assistant", "content": "Because of you."},
]


@pytest.fixture(scope="module")
def chat_tokenizer(addresses, tmp_path_factory):
    """SentencePiece with the special tokens of ChatML."""
    config = SentencePieceConfig(400, special_tokens=("<|im_start|>", "<|im_end|>"), user_symbols=("\n",))
    return train_sentencepiece(addresses, config, tmp_path_factory.mktemp("chat"))


def make(tokenizer, length=LENGTH, **options) -> Conversation:
    config = InstructionConfig(messages="messages", **options)
    return make_objective(config, setting_of(tokenizer, length, family="decoder"))


def stored(objective, directory, *conversations, policy="raise"):
    """The store of conversations, as preparing makes it."""
    rows = [Row({"messages": messages}, f"made:{number}") for number, messages in enumerate(conversations, 1)]
    how = Preparation(BadRowsConfig(policy, limit=len(rows)))
    return open_or_build(directory / "store", lambda: rows, objective.fields, objective.tokenizer, "made", how)


def learned(tokenizer, row) -> str:
    """The text of what is predicted."""
    return "".join(tokenizer.tokens(row["labels"][row["label_weights"] > 0])).replace("▁", " ")


def test_the_loss_is_on_answers_and_their_ends(chat_tokenizer, tmp_path):
    for turns, said in (
        ("every", "The state of the Union is strong.<|im_end|>Because of you.<|im_end|>"),
        ("last", "Because of you.<|im_end|>"),
    ):
        objective = make(chat_tokenizer, length=200, turns=turns)
        (record,) = stored(objective, tmp_path / turns, LONG).read([0])
        row = row_of(objective, cut(record, 0, len(record[TOKENS])))
        assert learned(chat_tokenizer, row) == said
        # What is predicted is what comes next in the conversation, which the template wrote from its first token on.
        whole = record[TOKENS]
        assert row["token_ids"][: len(whole) - 1].tolist() == whole[:-1].tolist()
        assert row["labels"][: len(whole) - 1].tolist() == whole[1:].tolist()
        assert whole[0] == chat_tokenizer.tokens(range(10)).index("<|im_start|>")


def test_conversations_share_a_row_and_none_sees_another(chat_tokenizer, tmp_path):
    objective = make(chat_tokenizer, length=200)
    store = stored(objective, tmp_path, SHORT, SHORT, LONG)
    plan = plan_rows(store.lengths, 200, objective.longest, objective.room, pack=True, truncate=True)
    (pieces,) = (plan.row(number) for number in range(len(plan)))
    records = [cut(r, p.start, p.stop) for r, p in zip(store.read([p.record for p in pieces]), pieces, strict=True)]
    row = row_of(objective, *records)
    counts = [row["label_weights"][row["segment_ids"] == number].sum() for number in (1, 2, 3)]
    assert sorted(counts) == sorted(sum(np.diff(r[LEARNED])[::2]) for r in records) and row["segment_ids"].max() == 3
    assert (row["label_weights"][row["segment_ids"] == 0] == 0).all()


def test_a_cut_conversation_keeps_an_answer_or_is_a_bad_row(chat_tokenizer, tmp_path):
    (record,) = stored(make(chat_tokenizer, length=200), tmp_path / "whole", LONG).read([0])
    first = int(record[LEARNED][0])
    for length in (first - 1, first, first + 1, len(record[TOKENS]) - 1):
        objective = make(chat_tokenizer, length=length)
        if length < first:
            with pytest.raises(DataError, match=r"made:1: .* begins after") as error:
                stored(objective, tmp_path / str(length), LONG)
            assert error.value.reason == "too_long"
            continue
        store = stored(objective, tmp_path / str(length), LONG)
        plan = plan_rows(store.lengths, length, objective.longest, objective.room, pack=True, truncate=True)
        (piece,) = plan.row(0)
        row = row_of(objective, cut(store.read([0])[0], piece.start, piece.stop))
        assert row["label_weights"].sum() == sum(first <= place <= length for place in _learned_places(record))
        assert row["label_weights"].sum() >= 1


def _learned_places(record) -> list[int]:
    runs = record[LEARNED].reshape(-1, 2)
    return [place for start, end in runs for place in range(start, end)]


def test_processes_prepare_conversations_and_make_rows_of_them(chat_tokenizer, tmp_path):
    objective = make(chat_tokenizer, length=200)
    rows = [Row({"messages": messages}, "made:1") for messages in (SHORT, LONG) * 3]
    stores = []
    for workers in (0, 1):
        directory, how = tmp_path / str(workers), Preparation(workers=workers)
        stores.append(open_or_build(directory, lambda: rows, objective.fields, chat_tokenizer, "made", how))
    here, there = (store.read(list(range(6))) for store in stores)
    assert all(x[name].tolist() == y[name].tolist() for x, y in zip(here, there, strict=True) for name in x)
    record = cut(here[1], 0, len(here[1][TOKENS]))
    other = pickle.loads(pickle.dumps(objective))
    assert all(np.array_equal(value, row_of(other, record)[name]) for name, value in row_of(objective, record).items())


def test_bad_conversations_are_counted_by_reason(chat_tokenizer, tmp_path):
    broken = [SHORT[:1], SHORT[1:], [{"role": "bot", "content": "x"}], "text", LONG]
    objective = make(chat_tokenizer, length=30)
    store = stored(objective, tmp_path, SHORT, *broken, SHORT, policy="skip")
    assert len(store) == 2 and store.rows == 7
    assert store.bad == {"no_assistant": 1, "role_order": 1, "unknown_role": 1, "not_messages": 1, "too_long": 1}


def test_a_store_is_named_by_all_that_its_content_depends_on(chat_tokenizer):
    options = [
        make(chat_tokenizer, **changes).record_options()
        for changes in ({}, {"turns": "last"}, {"chat_template": "plain"}, {"length": 50})
    ]
    assert len(set(options)) == 4
    assert make(chat_tokenizer).record_options() == make(chat_tokenizer, chat_template="chatml").record_options()


def test_what_cannot_be_is_refused(chat_tokenizer):
    for field, options in {
        "chat_template": {"chat_template": "chatml"},
        "turns": {"turns": "last"},
        "messages": {"messages": "messages", "prompt": "question"},
    }.items():
        with pytest.raises(InvalidField) as error:
            InstructionConfig(**options)
        assert error.value.field == field
    with pytest.raises(RecipeError, match="own"):
        make(chat_tokenizer, chat_template="own")
    with pytest.raises(RecipeError, match="decoder, not encoder"):
        make_objective(InstructionConfig(messages="messages"), setting_of(chat_tokenizer, LENGTH))


def test_a_tokenizer_is_trained_on_what_messages_say():
    assert InstructionConfig(messages="chat").text_columns() == ("chat",)
    assert InstructionConfig().text_columns() == ("prompt", "response")
