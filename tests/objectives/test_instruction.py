"""Instructions: the loss is on the answers and their end, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import read, record_of, row_of
from support.settings import setting_of

from jaxft.data.sources import Row
from jaxft.data.store import PART_ENDS, TOKENS, cut
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.objectives.instruction import Instruction, InstructionConfig

LENGTH = 48
PROMPT, ANSWER = "What is the state of the Union?", "The state of the Union is strong."


def make(tokenizer, length=LENGTH, **options) -> Instruction:
    return Instruction(InstructionConfig(**options), setting_of(tokenizer, length, family="decoder"))


def predicted(row) -> list[int]:
    return row["labels"][row["label_weights"] > 0].tolist()


@pytest.fixture(scope="module")
def encoded(tokenizer) -> tuple[list[int], list[int]]:
    """Prompt and answer, each by itself."""
    return tuple(ids.tolist() for ids in tokenizer.encode([PROMPT, ANSWER]))


def test_the_loss_is_on_the_answer_and_its_end(tokenizer, encoded):
    record = read(make(tokenizer), prompt=PROMPT, response=ANSWER)
    prompt, answer = encoded
    assert record[TOKENS].tolist() == prompt + answer and record[PART_ENDS].tolist() == [
        len(prompt),
        len(prompt + answer),
    ]
    row = row_of(make(tokenizer), record)
    assert predicted(row) == [*answer, tokenizer.separator_id]
    # The answer's first token is predicted where the prompt's last one is read.
    first = int(np.flatnonzero(row["label_weights"])[0])
    assert row["token_ids"][first] == prompt[-1]


def test_examples_share_a_row_and_each_keeps_its_own_answer(tokenizer):
    records = [
        record_of(range(100, 110), [4, 10]),
        record_of(range(120, 125), [1, 5]),
        record_of(range(140, 147), [6, 7]),
    ]
    row = row_of(make(tokenizer), *records)
    end = tokenizer.separator_id
    assert predicted(row) == [*range(104, 110), end, *range(121, 125), end, 146, end]
    assert row["segment_ids"].max() == 3


@pytest.mark.parametrize(("kept", "left"), [(8, [104, 105, 106, 107]), (5, [104]), (4, []), (3, [])])
def test_an_answer_that_was_cut_has_no_end(tokenizer, kept, left):
    record = cut({TOKENS: np.arange(100, 110), PART_ENDS: np.array([4, 10], np.int32)}, 0, kept)
    assert predicted(row_of(make(tokenizer), record)) == left


def test_a_template_says_what_stands_around_the_prompt(tokenizer):
    template = "Question: {prompt} Answer:"
    fields = make(tokenizer, template=template, prompt="ask", response="say").fields(
        Row({"ask": "Why {prompt}?", "say": "So."}, "a.jsonl:1")
    )
    assert fields.texts[TOKENS] == ("Question: Why {prompt}? Answer:", "So.")
    options = {
        make(tokenizer, **changes).record_options() for changes in ({}, {"template": template}, {"prompt": "ask"})
    }
    assert len(options) == 3


def test_what_cannot_be_is_refused(tokenizer):
    for template in ("", "no place", "{prompt} twice {prompt}"):
        with pytest.raises(InvalidField, match="template"):
            InstructionConfig(template=template)
    with pytest.raises(DataError, match=r"a\.jsonl:7.*response"):
        make(tokenizer).fields(Row({"prompt": "Why?"}, "a.jsonl:7"))
    with pytest.raises(RecipeError, match="decoder, not encoder"):
        Instruction(InstructionConfig(), setting_of(tokenizer, LENGTH))
