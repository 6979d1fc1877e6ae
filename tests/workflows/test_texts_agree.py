"""A text means the same wherever it is read: in training's run, in its export here, and in transformers."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
import transformers
from support.tiny_models import bert, llama, t5

import jaxft
from jaxft.cli.main import run
from jaxft.workflows.weights.export import export_model
from jaxft.workflows.weights.opened_model import open_model

TEXTS = ["a good film", "the plot is bad and dull", "fine", "the film is a good film is a bad film"]
RECIPE = """
name: texts
model: {{pretrained: {model}}}
streams:
  task: {{source: {{jsonl: rows.jsonl}}, objective: {objective}, batch_size: 4}}
optimizer: {{learning_rate: 1e-2}}
training: {{steps: 6}}
"""


def trained(directory: pathlib.Path, objective: str) -> pathlib.Path:
    """A run from the model in the directory `start`, and its export."""
    rows = [{"text": one, "pair": one[:6], "label": str(len(one) % 2), "value": float(len(one))} for one in TEXTS * 2]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "recipe.yaml").write_text(RECIPE.format(model=directory / "start", objective=objective))
    jaxft.train(directory / "recipe.yaml", run_directory=directory / "run", quiet=True)
    export_model(directory / "run", directory / "exported")
    return directory


def read_there(directory: pathlib.Path, *texts: list[str]) -> np.ndarray:
    """Logits of transformers' own classes, which read texts one at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    rows = list(zip(*texts, strict=True))
    with torch.no_grad():
        return np.stack([model(**tokenizer(*one, return_tensors="pt")).logits[0].numpy() for one in rows])


def plain_llama(directory: pathlib.Path) -> None:
    """With Llama's own template, which ends no text."""
    llama(directory)
    path = directory / "tokenizer.json"
    described = json.loads(path.read_text())
    start, first, second = (
        described["post_processor"]["single"][0],
        *({"Sequence": {"id": i, "type_id": 0}} for i in "AB"),
    )
    described["post_processor"] |= {"single": [start, first], "pair": [start, first, start, second]}
    path.write_text(json.dumps(described))


MODELS = {"bert": bert, "llama": plain_llama}


@pytest.fixture(scope="module", params=MODELS)
def started(request, tmp_path_factory) -> pathlib.Path:
    """A directory with a model to start from."""
    directory = tmp_path_factory.mktemp(request.param)
    MODELS[request.param](directory / "start")
    return directory


def test_a_classifier_scores_texts_alike_everywhere(started):
    directory = trained(started, "{kind: sequence_classification}")
    theirs = torch.tensor(read_there(directory / "exported", TEXTS)).softmax(-1).numpy()
    (directory / "texts.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS))
    jaxft.predict(directory / "run", directory / "texts.jsonl", directory / "predicted.jsonl")

    predicted = [json.loads(line) for line in (directory / "predicted.jsonl").read_text().splitlines()]
    for number, (there, here) in enumerate(zip(theirs, predicted, strict=True)):
        assert list(here["probabilities"].values()) == pytest.approx(there, abs=2e-5)
        for place in ("run", "exported"):
            (read,) = jaxft.classify(directory / place, TEXTS[number])
            assert [read.scores[name] for name in here["probabilities"]] == pytest.approx(there, abs=2e-5), place


def test_pairs_are_scored_alike_everywhere(started, tmp_path):
    (tmp_path / "start").symlink_to(started / "start")
    directory = trained(tmp_path, "{kind: regression, pair: pair, target: value}")
    seconds = [one[:6] for one in TEXTS]
    theirs = read_there(directory / "exported", TEXTS, seconds)[:, 0]
    rows = ({"text": one, "pair": two} for one, two in zip(TEXTS, seconds, strict=True))
    (directory / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jaxft.predict(directory / "run", directory / "texts.jsonl", directory / "predicted.jsonl")

    predicted = [json.loads(line) for line in (directory / "predicted.jsonl").read_text().splitlines()]
    found = [
        next(value for name, value in one.items() if name.startswith("predict") or name == "value") for one in predicted
    ]
    assert found == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_a_decoder_finds_texts_as_likely_as_transformers_does(tmp_path):
    plain_llama(tmp_path / "start")
    directory = trained(tmp_path, "{kind: causal_lm, length: 30}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "exported")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory / "exported").eval()
    for place in ("run", "exported"):
        scored = jaxft.score(directory / place, ["a good"] * 2, [" film", " plot is bad"])
        for one, continuation in zip(scored, (" film", " plot is bad"), strict=True):
            before, whole = (
                tokenizer(text, return_tensors="pt")["input_ids"] for text in ("a good", "a good" + continuation)
            )
            with torch.no_grad():
                logits = model(whole).logits[0].log_softmax(-1)
            size = before.shape[1]
            wanted = sum(float(logits[i - 1, whole[0, i]]) for i in range(size, whole.shape[1]))
            assert one.log_probability == pytest.approx(wanted, abs=1e-3), place
        begun = jaxft.generate(directory / place, ["the film"], max_new_tokens=8)[0]
        ids = tokenizer("the film", return_tensors="pt")
        with torch.no_grad():
            theirs = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert begun.token_ids.tolist() == theirs.tolist()


def test_pairs_in_a_file_may_hold_whatever_ends_a_line_elsewhere(tmp_path, capsys):
    plain_llama(tmp_path / "model")
    pairs = [("a good\u2028film", "\u0085is good"), ("a bad\x0bfilm", " is bad")]
    lines = (json.dumps({"prompt": one, "continuation": two}, ensure_ascii=False) for one, two in pairs)
    (tmp_path / "pairs.jsonl").write_text("\r\n".join(lines), newline="", encoding="utf-8")
    assert run(["score", str(tmp_path / "model"), "--file", str(tmp_path / "pairs.jsonl")]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [(row["prompt"], row["continuation"]) for row in found] == pairs
    wanted = jaxft.score(tmp_path / "model", *map(list, zip(*pairs, strict=True)))
    assert [row["log_probability"] for row in found] == pytest.approx([one.log_probability for one in wanted], abs=1e-4)


def test_an_encoder_decoder_reads_and_writes_alike(tmp_path):
    t5(tmp_path / "start")
    directory = trained(tmp_path, "{kind: seq2seq, source: text, target: pair, target_length: 16}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "exported")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory / "exported").eval()
    for place in ("run", "exported"):
        ours = jaxft.generate(directory / place, TEXTS, max_new_tokens=8)
        for one, text in zip(ours, TEXTS, strict=True):
            with torch.no_grad():
                theirs = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8, do_sample=False)[0]
            assert one.token_ids.tolist() == theirs[1:].tolist(), (place, text)


def test_long_texts_are_cut_as_in_training_wherever_that_is_asked_for(tmp_path):
    bert(tmp_path / "start")
    directory = trained(tmp_path, "{kind: sequence_classification, length: 8}")
    long = ["the film is a good film is a bad film"]
    (directory / "texts.jsonl").write_text(json.dumps({"text": long[0]}) + "\n")
    jaxft.predict(directory / "run", directory / "texts.jsonl", directory / "predicted.jsonl")
    wanted = list(json.loads((directory / "predicted.jsonl").read_text())["probabilities"].values())

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "exported")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory / "exported").eval()
    with torch.no_grad():
        theirs = model(**tokenizer(long, truncation=True, return_tensors="pt")).logits.softmax(-1)[0]
    assert tokenizer.model_max_length == 8 and wanted == pytest.approx(theirs.numpy(), abs=2e-5)
    (ours,) = jaxft.classify(directory / "run", long, truncate=True)
    assert sorted(ours.scores.values()) == pytest.approx(sorted(wanted), abs=2e-5)


def test_a_chat_stops_at_the_end_of_a_turn_there_too(tmp_path):
    """Also where what it began with had no generation_config.json, but keys of it in its config.json."""
    plain_llama(tmp_path / "start")
    (tmp_path / "start" / "generation_config.json").unlink()
    config = json.loads((tmp_path / "start" / "config.json").read_text())
    (tmp_path / "start" / "config.json").write_text(json.dumps({**config, "repetition_penalty": 1.5}))
    turns = [({"role": "user", "content": one}, {"role": "assistant", "content": one[:4]}) for one in TEXTS * 2]
    rows = [{"messages": messages} for messages in turns]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    objective = "{kind: instruction, messages: messages, chat_template: chatml}"
    text = RECIPE.format(model=tmp_path / "start", objective=objective).replace("rows.jsonl", "chats.jsonl")
    (tmp_path / "recipe.yaml").write_text(text)
    jaxft.train(tmp_path / "recipe.yaml", run_directory=tmp_path / "run", quiet=True)
    export_model(tmp_path / "run", tmp_path / "exported")

    ours = open_model(tmp_path / "run").special_tokens.end
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").generation_config
    ends = theirs.eos_token_id if isinstance(theirs.eos_token_id, list) else [theirs.eos_token_id]
    assert set(ends) == set(ours) and theirs.repetition_penalty == 1.5
