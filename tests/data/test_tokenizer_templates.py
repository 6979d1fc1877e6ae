"""What stands around texts in training is what the model's own tokenizer puts there, for every kind of row."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tokenizers
from support.settings import setting_of
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoTokenizer, GPT2Tokenizer

from jaxft.data.store import SPAN_ENDS, SPAN_STARTS, TOKENS
from jaxft.data.tokenizers import load_tokenizer
from jaxft.data.tokenizers.template import cut_pair
from jaxft.generation.text_layout import TextLayout
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.question_answering import QuestionAnswering, QuestionAnsweringConfig
from jaxft.objectives.seq2seq import Seq2Seq, Seq2SeqConfig
from jaxft.objectives.text_task import lay_pair
from jaxft.objectives.token_classification import TokenClassification, TokenClassificationConfig

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "<sep>", "<cls>", *(f"w{number}" for number in range(30))]
# A text alone, a pair, and the named tokens, as the classes of transformers have them.
TEMPLATES = {
    "bert": ("<cls>:0 $A:0 <sep>:0", "<cls>:0 $A:0 <sep>:0 $B:1 <sep>:1", {"cls_token": "<cls>", "sep_token": "<sep>"}),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>", {"cls_token": "<s>", "sep_token": "</s>"}),
    "llama": ("<s> $A", "<s> $A <s> $B", {"bos_token": "<s>", "eos_token": "</s>"}),
    "ends too": ("<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1", {"bos_token": "<s>", "eos_token": "</s>"}),
    "t5": ("$A </s>", "$A </s> $B </s>", {"eos_token": "</s>"}),
    "xlnet": ("$A <sep> <cls>:2", "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2", {"cls_token": "<cls>", "sep_token": "<sep>"}),
    "gpt2": (None, None, {"bos_token": "</s>", "eos_token": "</s>"}),
}  # fmt: skip


@pytest.fixture(scope="module", params=TEMPLATES)
def both(request, tmp_path_factory):
    """transformers' tokenizer of a directory, and ours."""
    single, pair, names = TEMPLATES[request.param]
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(WORDS[:7])
    if single is not None:
        special = [(word, WORDS.index(word)) for word in WORDS[:7] if word in f"{single} {pair}"]
        made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    directory = tmp_path_factory.mktemp("tokenizer")
    made.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "<pad>", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "<mask>"}))
    return AutoTokenizer.from_pretrained(directory), load_tokenizer(directory)


def text(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def real(row) -> list[int]:
    """Ids of a row without its padding."""
    return row["token_ids"][row["segment_ids"] > 0].tolist()


@pytest.mark.parametrize("second", [None, text(7, 8, 9, 10)])
def test_rows_of_texts_and_pairs_are_those_of_the_tokenizer(both, second):
    theirs, ours = both
    first = text(1, 2, 3)
    wanted = theirs(first, second, return_token_type_ids=True)
    ids = [ours.encode([one])[0] for one in (first, second) if one is not None]

    row = lay_pair(ids[0], ids[1] if second else None, 24, ours)
    assert real(row) == wanted["input_ids"]
    assert row["token_types"][row["segment_ids"] > 0].tolist() == wanted["token_type_ids"]
    read, types = TextLayout(ours.template, 24).row("text 1", ids[0], ids[1] if second else None)
    assert read.tolist() == wanted["input_ids"] and types.tolist() == wanted["token_type_ids"]


@pytest.mark.parametrize(("one", "two", "length"), list(itertools.product((2, 5, 9), (2, 6, 9), (10, 13))))
def test_long_pairs_are_cut_where_the_tokenizer_cuts_them(both, one, two, length):
    theirs, ours = both
    texts = text(*range(one)), text(*range(10, 10 + two))
    wanted = theirs(*texts, truncation="longest_first", max_length=length)["input_ids"]
    ids = ours.encode(texts)
    assert real(lay_pair(*ids, length, ours)) == wanted
    assert TextLayout(ours.template, length).row("", *ids, truncate=True)[0].tolist() == wanted


def test_pairs_are_cut_like_those_of_the_library():
    for one, two, room in itertools.product(range(1, 9), range(1, 9), range(2, 12)):
        first, second = cut_pair(np.arange(one), np.arange(two), room)
        assert len(first) + len(second) == min(one + two, room)


def test_masked_and_tagged_rows_are_those_of_the_tokenizer(both):
    theirs, ours = both
    (tokens,) = ours.encode([text(1, 2, 3)])
    wanted, size = theirs(text(1, 2, 3))["input_ids"], len(tokens)

    masked = MaskedLM(MaskedLMConfig(), setting_of(ours, 16)).make_row([{TOKENS: tokens}], [np.random.default_rng(0)])
    original = masked["token_ids"].copy()
    used = masked["label_weights"] > 0
    original[masked["gather"][used]] = masked["labels"][used]
    assert original[masked["segment_ids"] > 0].tolist() == wanted
    tagged = TokenClassification(TokenClassificationConfig(labels=("O", "B-x")), setting_of(ours, 16))
    record = {TOKENS: tokens, SPAN_STARTS: np.arange(size) * 3, SPAN_ENDS: np.arange(size) * 3 + 2}
    record |= {"begins": True, "ends": True, "word_starts": np.arange(size) * 3, "tags": np.ones(size, np.int32)}
    row = tagged.make_row([record], [None])
    assert real(row) == wanted
    assert row["token_ids"][row["tag_weights"] > 0].tolist() == tokens.tolist()


def test_questions_and_their_windows_are_those_of_the_tokenizer(both):
    theirs, ours = both
    if theirs.cls_token_id is None:
        pytest.skip("an encoder's task, which needs a start token")
    question, context = ours.encode([text(1, 2), text(5, 6, 7)])
    objective = QuestionAnswering(QuestionAnsweringConfig(question_length=4, stride=2), setting_of(ours, 24))
    spans = {SPAN_STARTS: np.arange(3) * 3, SPAN_ENDS: np.arange(3) * 3 + 2}
    record = {
        TOKENS: context,
        "question": question,
        "answer_start": 3,
        "answer_end": 5,
        "begins": True,
        "ends": True,
        **spans,
    }
    row = objective.make_row([record], [None])
    assert real(row) == theirs(text(1, 2), text(5, 6, 7))["input_ids"]
    assert row["token_ids"][row["start"]] == row["token_ids"][row["end"]] == context[1]


def test_documents_begin_as_prompts_do_and_end_with_the_end(both):
    theirs, ours = both
    objective = CausalLM(CausalLMConfig(), setting_of(ours, 16, family="decoder"))
    (tokens,) = ours.encode([text(1, 2, 3)])
    row = objective.make_row([{TOKENS: tokens}], [None])
    prompt = theirs(text(1, 2, 3))["input_ids"]
    start = prompt[: prompt.index(tokens[0])]
    assert real(row) == [*start, *tokens]
    learned = row["labels"][row["label_weights"] > 0].tolist()
    assert learned == [*start, *tokens, ours.separator_id][1:]


def test_sources_and_targets_of_foreign_weights_are_those_of_the_tokenizer(both):
    theirs, ours = both
    context = setting_of(ours, 16, family="encoder_decoder", num_decoder_layers=1)
    foreign = Seq2Seq(Seq2SeqConfig(target_length=8), dataclasses.replace(context, is_foreign=True))
    source, target = ours.encode([text(1, 2, 3), text(4, 5)])
    row = foreign.make_row([{TOKENS: source, "target": target}], [None])
    assert real(row) == theirs(text(1, 2, 3))["input_ids"]
    assert row["labels"][row["label_weights"] > 0].tolist() == theirs(text(4, 5))["input_ids"]


def test_a_directory_of_vocabulary_files_alone_has_what_transformers_puts_around_texts(tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), GPT2Tokenizer)
    ours = load_tokenizer(tmp_path)
    assert ours.template.overhead == 0 and ours.template.pair_overhead == 0
