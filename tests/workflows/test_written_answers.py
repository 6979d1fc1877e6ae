"""A model that knows its few examples by heart writes them, in evaluation and in prediction."""

from __future__ import annotations

import json
import pathlib

import pytest

from jaxft.cli.main import run

DAYS = ("one Monday", "two Tuesday", "three Wednesday", "four Thursday", "five Friday", "six Saturday")
SIZE = "embed_dim: 32, num_layers: 1, num_heads: 2, mlp_dim: 64, max_length: 48, dropout: 0, attention_dropout: 0"
CASES = {
    "seq2seq": (
        f"{{preset: encoder-decoder-tiny, num_decoder_layers: 1, {SIZE}}}",
        "{kind: seq2seq, source: question, target: reply, target_length: 12}",
    ),
    "instruction": (f"{{preset: decoder-tiny, {SIZE}}}", "{kind: instruction, prompt: question, response: reply}"),
    "conversation": (f"{{preset: decoder-tiny, {SIZE}}}", "{kind: instruction, messages: messages}"),
}


@pytest.fixture(params=CASES)
def recipe(request, tmp_path, monkeypatch) -> pathlib.Path:
    """A recipe that learns the days by heart; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    model, objective = CASES[request.param]
    rows = []
    for words in DAYS:
        number, day = words.split(" ", 1)
        question, reply = f"Which day is number {number}?", f"It is {day}."
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        rows.append({"question": question, "reply": reply, "messages": messages})
    pathlib.Path("days.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "days.yaml"
    path.write_text(
        f"""
name: days
model: {model}
tokenizer: {{byte_bpe: {{vocab_size: 290}}}}
streams:
  task: {{source: {{jsonl: days.jsonl}}, objective: {objective}, batch_size: 3}}
evaluation:
  known:
    stream: task
    source: {{jsonl: days.jsonl}}
    metrics: [loss, exact_match, rougeL, bleu]
    generation: {{max_new_tokens: 24}}
optimizer: {{name: adamw, learning_rate: 1e-2, weight_decay: 0}}
training: {{steps: 200, evaluate_every: 200, log_every: 50}}
"""
    )
    return path


@pytest.mark.slow
def test_what_is_known_by_heart_is_written(recipe, capsys):
    """Catches prompts that differ from those of training, ends that are not seen, and answers beside their rows."""
    assert run(["train", str(recipe), "--run-dir", "run", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    known = summary["evaluation"]["known"]
    assert known["loss"] < 0.05
    assert (known["exact_match"], known["rougeL"]) == (1.0, 1.0) and known["bleu"] == pytest.approx(100)
    before = json.loads(pathlib.Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert before["known.exact_match"] == 0
    assert run(["predict", "run", "days.jsonl"]) == 0
    predicted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["answer"] for row in predicted] == [row["reply"] for row in predicted]
