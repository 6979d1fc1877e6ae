"""What a run writes, several processes write with it, and transformers with its export: the same tokens and ends."""

from __future__ import annotations

import json
import pathlib
import random

import pytest
import transformers
from several import ended, scripted
from support.tiny_models import bert

import jaxft
from jaxft.cli.main import run
from jaxft.workflows.inference.chat import open_chat

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


def commands(run_directory: pathlib.Path, classifier: pathlib.Path) -> list[list[str]]:
    """Verbs that write and read with a model, into files of the working directory."""
    prompts = [word for first in [*TEXTS, "o"] for word in ("--prompt", first)]
    drawing = [
        "--temperature",
        "2",
        "--num-return-sequences",
        "2",
        "--stop",
        "gre",
        "--max-new-tokens",
        "12",
        "--batch-size",
        "4",
    ]
    data = f"{{jsonl: {run_directory.parent / 'chats.jsonl'}, limit: 7}}"
    evaluation = f"evaluation.chat={{stream: chat, source: {data}, metrics: [exact_match, rougeL, loss]}}"
    return [
        ["generate", str(run_directory), *prompts, *drawing, "--output", "texts.jsonl"],
        [
            "classify",
            str(classifier),
            "--text",
            "a good film",
            "--text",
            "bad",
            "--text",
            "the plot is dull",
            "--output",
            "labels.jsonl",
        ],
        ["evaluate", str(run_directory), evaluation, "--json"],
    ]


@pytest.mark.slow
def test_several_processes_write_and_read_the_same(decoder, tmp_path, capfd, monkeypatch):
    classifier = bert(tmp_path / "classifier", "BertForSequenceClassification", num_labels=3)
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    for words in commands(decoder[0], classifier):
        capfd.readouterr()
        assert run(words) == 0
    evaluated = json.loads(capfd.readouterr().out)["evaluation"]["chat"]
    assert evaluated["exact_match"] == 1
    asked = (str(tmp_path / "together"), json.dumps(commands(decoder[0], classifier)))
    with scripted(2, pathlib.Path(__file__).with_name("together.py"), *asked) as processes:
        told = ended(processes, 120)
    for index, (status, out, err) in enumerate(told):
        assert status == 0 and err.splitlines()[-1] == "[0, 0, 0]", err
        # Only the first process tells of results.
        assert (
            (json.loads(out)["evaluation"]["chat"] == pytest.approx(evaluated, rel=1e-5)) if index == 0 else out == ""
        )
    names = {"texts": 8, "labels": 3}
    written = sorted(path.relative_to(tmp_path / "together") for path in (tmp_path / "together").rglob("*.*"))
    assert written == sorted(pathlib.Path("0", f"{name}.jsonl") for name in names)
    for name, count in names.items():
        one, two = (
            [json.loads(line) for line in (tmp_path / where / f"{name}.jsonl").read_text().splitlines()]
            for where in ("alone", "together/0")
        )
        assert len(one) == len(two) == count
        for expected, found in zip(one, two, strict=True):
            for key, value in expected.items():
                close = isinstance(value, float | dict)
                assert found[key] == (pytest.approx(value, rel=1e-4, abs=1e-5) if close else value), (name, key)


@pytest.mark.parametrize("verb", ["chat", "serve"])
def test_verbs_of_one_process_refuse_to_be_several(verb, tmp_path, capsys):
    where = ("--coordinator", "127.0.0.1:1", "--processes", "2", "--index", "1")
    assert run([verb, str(tmp_path), *where]) == 2
    message = capsys.readouterr().err
    assert message.count("jaxft") == 3 and f"jaxft {verb} answers from one process, found 2" in message
