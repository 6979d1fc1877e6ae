"""Tags and answers from their data to Hugging Face: trained, evaluated, predicted and exported by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from support.tiny_models import bert

from jaxft.cli.main import run
from jaxft.data.tokenizers import load_tokenizer

pytestmark = pytest.mark.slow

GRADES, THINGS, REST = ["good", "bad", "fine", "dull"], ["film", "plot"], ["the", "a", "is"]


def sentence(rng: np.random.Generator) -> list[str]:
    """Some words, of which one is a grade, and one at most a thing."""
    words = list(rng.choice(REST, rng.integers(2, 20)))
    for choices in (GRADES, THINGS):
        words.insert(int(rng.integers(len(words) + 1)), rng.choice(choices))
    return [str(word) for word in words]


def tag(word: str) -> str:
    return "B-GRADE" if word in GRADES else "B-THING" if word in THINGS else "O"


def question(words: list[str]) -> dict:
    """What is it? The grade. A sentence without one has no answer."""
    context = " ".join(words)
    answers = [{"text": word, "start": context.index(word)} for word in words if word in GRADES]
    return {"context": context, "question": "is the film", "answers": answers, "n": len(words)}


RECIPE = """
name: {name}
model: {{pretrained: {data}/bert, dropout: 0.0, attention_dropout: 0.0}}
streams:
  task:
    source: {{jsonl: {name}_train.jsonl}}
    objective: {{kind: {kind}, length: 16, dropout: 0.0{options}}}
    batch_size: 16
evaluation:
  held: {{stream: task, source: {{jsonl: {name}_dev.jsonl}}, batch_size: 7}}
optimizer: {{learning_rate: 5e-3}}
training: {{steps: 100, evaluate_every: 100}}
"""
TASKS = {
    "words": ("token_classification", ""),
    "answers": (
        "question_answering", ", question_length: 3, stride: 4, answer_length: 2, unanswerable: true",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    bert(directory / "bert", initializer_range=0.2)
    rng = np.random.default_rng(0)
    for part, count in (("train", 120), ("dev", 30)):
        sentences = [sentence(rng) for _ in range(count)]
        rows = {
            "words": [{"tokens": words, "tags": list(map(tag, words))} for words in sentences],
            "answers": [question([w for w in words if i % 5 or w not in GRADES]) for i, words in enumerate(sentences)],
        }
        for name, own in rows.items():
            (directory / f"{name}_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return directory


@pytest.fixture(scope="module", params=TASKS)
def trained(request, data) -> tuple[str, Path]:
    """A task and the directory of its run."""
    name, (kind, options) = request.param, TASKS[request.param]
    path = data / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, data=data, kind=kind, options=options))
    assert run(["train", str(path), "--run-dir", str(data / name), "--quiet"]) == 0
    return name, data / name


def predicted(directory: Path, file: Path, capsys) -> list[dict]:
    capsys.readouterr()
    assert run(["predict", str(directory), str(file)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_what_is_learned_is_predicted_and_told_with_its_confidence(trained, data, capsys):
    name, directory = trained
    capsys.readouterr()
    assert run(["evaluate", str(directory), "--json", "--confidence", "0.9", "--resamples", "50"]) == 0
    result = json.loads(capsys.readouterr().out)
    found, intervals = result["evaluation"]["held"], result["intervals"]["held"]
    rows = predicted(directory, data / f"{name}_dev.jsonl", capsys)
    assert len(rows) == 30
    if name == "words":
        assert all(row["tags"] == row["given_tags"] for row in rows)
        assert all(row["tokens"][entity["start"]] == entity["text"] for row in rows for entity in row["entities"])
        assert (found["entity_f1"], found["accuracy"]) == (1.0, 1.0)
    else:
        exact = [row["answer"] == (row["answers"][0]["text"] if row["answers"] else "") for row in rows]
        assert np.mean(exact) == pytest.approx(found["exact_match"]) and found["exact_match"] > 0.9
        assert any(not row["answers"] for row in rows) and any(row["n"] > 20 for row in rows)  # more than a window
    assert {metric for metric, value in found.items() if isinstance(value, float)} == set(intervals)
    for metric, ends in intervals.items():
        assert ends["low"] <= found[metric] + 1e-6 and found[metric] <= ends["high"] + 1e-6
    assert intervals["loss"]["low"] < found["loss"] < intervals["loss"]["high"]


def test_the_table_shows_the_ends_of_the_intervals(trained, capsys):
    capsys.readouterr()
    assert run(["evaluate", str(trained[1]), "--confidence", "0.95", "--resamples", "10"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "low (95%)" in head and "high" in head
    assert any("loss" in line and len(line.split()) == 5 for line in lines)
    assert run(["evaluate", str(trained[1]), "--confidence", "95"]) == 2
    assert "--confidence must lie between 0 and 1, like 0.95; found 95" in capsys.readouterr().err


def test_the_exported_model_says_the_same_in_torch(trained, data, tmp_path, capsys):
    name, directory = trained
    assert run(["export", str(directory), str(tmp_path / "exported")]) == 0
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    expected = {"words": "BertForTokenClassification", "answers": "BertForQuestionAnswering"}
    assert config["architectures"] == [expected[name]]
    model = getattr(transformers, expected[name]).from_pretrained(tmp_path / "exported").eval()
    tokenizer = load_tokenizer(tmp_path / "exported")
    rows = [row for row in predicted(directory, data / f"{name}_dev.jsonl", capsys) if row.get("n", 0) <= 8]
    for row in rows[:10]:
        if name == "words":
            (ids,) = tokenizer.encode([" ".join(row["tokens"])])
            if len(ids) > 14:
                continue
            inputs = torch.tensor([[tokenizer.start_id, *ids, tokenizer.separator_id]])
            with torch.no_grad():
                logits = model(inputs).logits[0, 1:-1]
            assert [config["id2label"][str(int(i))] for i in logits.argmax(-1)] == row["tags"]
            continue
        first, second = (ids.tolist() for ids in tokenizer.encode([row["question"], row["context"]]))
        inputs = [tokenizer.start_id, *first, tokenizer.separator_id, *second, tokenizer.separator_id]
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        with torch.no_grad():
            output = model(torch.tensor([inputs]), token_type_ids=torch.tensor([types]))
        start, end = output.start_logits[0].numpy(), output.end_logits[0].numpy()
        inside = range(len(first) + 2, len(inputs) - 1)
        best = max((start[i] + end[j], -i, -j) for i in inside for j in inside if i <= j < i + 2)
        answer = " ".join(tokenizer.tokens(inputs[-best[1] : -best[2] + 1]))
        assert row["best_answer"] == answer
        assert row["null_difference"] == pytest.approx(start[0] + end[0] - best[0], abs=1e-3)
    assert rows


def test_a_row_that_cannot_be_used_is_named_by_the_command_line(trained, data, tmp_path, capsys):
    name, directory = trained
    bad = {"words": '{"tokens": ["good", ""]}', "answers": '{"context": "", "question": "is"}'}[name]
    (tmp_path / "bad.jsonl").write_text(bad + "\n")
    assert run(["predict", str(directory), str(tmp_path / "bad.jsonl")]) == 3
    said = capsys.readouterr().err
    assert "bad.jsonl:1" in said and "empty" in said and "Traceback" not in said


def test_data_show_tells_what_is_learned(trained, data, capsys):
    name, _ = trained
    capsys.readouterr()
    assert run(["data", "show", str(data / f"{name}.yaml"), "--rows", "16"]) == 0
    said = capsys.readouterr().out
    assert "film→B-THING" in said if name == "words" else any(f"«{grade}»" in said for grade in GRADES)


def test_a_decoder_with_a_vocabulary_of_its_own_learns_tags(data, tmp_path, capsys):
    """Trained on the lists of words; a word is read where it ends, as nothing before that knows it."""
    recipe = tmp_path / "decoder.yaml"
    recipe.write_text(f"""
name: decoder
model:
  {{preset: decoder-tiny, embed_dim: 32, num_heads: 2, num_kv_heads: 2, mlp_dim: 64, num_layers: 1, max_length: 32}}
tokenizer: {{byte_bpe: {{vocab_size: 262}}}}
data: {{directory: {data}}}
streams:
  task:
    source: {{jsonl: words_train.jsonl}}
    objective: {{kind: token_classification, labelled: last}}
    batch_size: 16
evaluation:
  held: {{stream: task, source: {{jsonl: words_dev.jsonl}}}}
optimizer: {{learning_rate: 1e-2}}
training: {{steps: 80, evaluate_every: 80}}
""")
    capsys.readouterr()
    assert run(["train", str(recipe), "--run-dir", str(tmp_path / "run"), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["held"]["entity_f1"] > 0.9
    rows = predicted(tmp_path / "run", data / "words_dev.jsonl", capsys)
    assert max(len(row["tokens"]) for row in rows) > 16  # in several rows, as most words are of several tokens
    assert np.mean([row["tags"] == row["given_tags"] for row in rows]) > 0.7
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "exported")]) == 0
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["architectures"][0].endswith("ForTokenClassification")
