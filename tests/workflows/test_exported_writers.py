"""What a run writes, transformers writes with its export: the same prompts, the same tokens, the same ends."""

from __future__ import annotations

import json
import pathlib
import random

import pytest
import transformers

import jaxft
from jaxft.cli.main import run
from jaxft.workflows.chat import open_chat

TEXTS = {"one": "one two three", "red": "red green blue", "up": "up down left right"}
ANSWERS = {"hi": "hello you", "bye": "see you"}
SIZES = "embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1, max_length: 48, dropout: 0"
DECODER = f"""
model: {{preset: decoder-tiny, num_kv_heads: 2, {SIZES}}}
streams:
  text: {{source: {{jsonl: texts.jsonl}}, objective: {{kind: causal_lm, length: 24}}, batch_size: 8}}
  chat: {{source: {{jsonl: chats.jsonl}}, objective: {{kind: instruction, messages: messages}}, batch_size: 8}}
"""
ENCODER_DECODER = f"""
model: {{preset: encoder-decoder-tiny, num_decoder_layers: 1, {SIZES}}}
streams:
  task:
    source: {{jsonl: texts.jsonl}}
    objective: {{kind: seq2seq, source: first, target: text, length: 24, target_length: 24}}
    batch_size: 8
"""


def exported(directory: pathlib.Path, parts: str, tokenizer: str) -> tuple[pathlib.Path, pathlib.Path]:
    """A run that has learned its texts by heart, and its export."""
    draw = random.Random(0)
    texts = [{"first": first, "text": text} for first, text in draw.choices(list(TEXTS.items()), k=200)]
    chats = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in draw.choices(list(ANSWERS.items()), k=200)
    ]
    for name, rows in (("texts", texts), ("chats", chats)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "recipe.yaml").write_text(
        f"name: writer\n{parts}tokenizer: {{{tokenizer}}}\n"
        "optimizer: {learning_rate: 1e-2}\ntraining: {steps: 80, evaluate_every: 80}\n"
    )
    assert run(["train", str(directory / "recipe.yaml"), "--run-dir", str(directory / "run"), "--quiet"]) == 0
    assert run(["export", str(directory / "run"), str(directory / "exported")]) == 0
    return directory / "run", directory / "exported"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """A decoder of bytes, and its export."""
    special = 'special_tokens: ["<|im_start|>", "<|im_end|>"]'
    return exported(tmp_path_factory.mktemp("decoder"), DECODER, f"byte_bpe: {{vocab_size: 280, {special}}}")


def test_a_decoder_writes_the_same_and_stops_there_too(decoder):
    ours, theirs = decoder
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    assert tokenizer.eos_token == "[SEP]" and tokenizer.pad_token == "[PAD]" and tokenizer.bos_token == "[CLS]"
    expected = jaxft.generate(str(ours), list(TEXTS), max_new_tokens=24)
    for (first, text), one in zip(TEXTS.items(), expected, strict=True):
        given = tokenizer(first, return_tensors="pt")
        written = model.generate(**given, max_new_tokens=24, do_sample=False)[0]
        assert one.finished_by == "end" and first + one.text == text
        assert written[given.input_ids.shape[1] :].tolist() == one.token_ids.tolist()
        assert tokenizer.decode(written, skip_special_tokens=True) == text


def test_a_decoder_answers_the_same_and_ends_its_turn(decoder):
    ours, theirs = decoder
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    session = open_chat(str(ours), options={"temperature": 0.0})
    for question, answer in ANSWERS.items():
        messages = [{"role": "user", "content": question}]
        given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        written = model.generate(**given, max_new_tokens=24, do_sample=False)[0, given.input_ids.shape[1] :]
        assert tokenizer.decode(written) == f"{answer}<|im_end|>"
        assert "".join(session.ask(question)) == answer
        session.reset()
    assert model.generation_config.eos_token_id == [3, *tokenizer.convert_tokens_to_ids(["<|im_end|>"])]


@pytest.mark.slow
def test_an_encoder_decoder_reads_and_writes_the_same(tmp_path):
    ours, theirs = exported(tmp_path, ENCODER_DECODER, "train: {vocab_size: 28}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(theirs)
    expected = jaxft.generate(str(ours), list(TEXTS), max_new_tokens=24)
    again = jaxft.generate(str(theirs), list(TEXTS), max_new_tokens=24)
    for (first, text), one, other in zip(TEXTS.items(), expected, again, strict=True):
        given = tokenizer(first, return_tensors="pt")
        written = model.generate(**given, max_new_tokens=24, do_sample=False)[0]
        assert one.finished_by == "end" and one.text == text
        assert one.token_ids.tolist() == other.token_ids.tolist() == written[1:].tolist()
