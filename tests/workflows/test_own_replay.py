"""Replay that a model writes itself: texts from nothing, which are then a stream beside a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxft.cli.main import run

SIZES = "embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1, max_length: 32, initializer_range: 0.1"
RECIPE = """
name: {name}
model: {model}
streams:
  {streams}
training: {{steps: 20}}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A directory with a decoder that has seen a few words, in `start`."""
    directory = tmp_path_factory.mktemp("own")
    words = [f"the {film} is {word}" for film in ("film", "plot") for word in ("good", "dull", "long", "short")] * 50
    (directory / "text.txt").write_text("\n\n".join(words) + "\n")
    model = f"{{preset: decoder-tiny, {SIZES}}}\ntokenizer: {{train: {{vocab_size: 22}}}}"
    streams = "text: {source: {text: text.txt}, objective: {kind: causal_lm}, batch_size: 8}"
    (directory / "start.yaml").write_text(RECIPE.format(name="start", model=model, streams=streams))
    assert run(["train", str(directory / "start.yaml"), "--run-dir", str(directory / "start"), "--quiet"]) == 0
    return directory


def written(start: Path, name: str, *words: str) -> list[dict]:
    output = start / name
    given = ["--unprompted", "20", "--temperature", "1", "--max-new-tokens", "12", "--output", str(output), *words]
    assert run(["generate", str(start / "start"), *given]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_what_a_model_writes_by_itself_is_a_stream_beside_a_task(start):
    rows = written(start, "own.jsonl")
    texts = [row["text"] for row in rows]
    assert len(set(texts)) > 10 and all(text.strip() for text in texts)
    assert [row["text"] for row in written(start, "again.jsonl")] == texts
    assert [row["text"] for row in written(start, "other.jsonl", "--seed", "1")] != texts
    streams = """task: {source: {text: text.txt}, objective: {kind: causal_lm, length: 16}, batch_size: 4}
  replay: {source: {jsonl: own.jsonl}, objective: {kind: causal_lm}, batch_size: 2, weight: 0.3}"""
    (start / "both.yaml").write_text(
        RECIPE.format(name="both", model=f"{{pretrained: {start}/start}}", streams=streams)
    )
    assert run(["train", str(start / "both.yaml"), "--run-dir", str(start / "both"), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unprompted", "3"], "give --temperature 1"),
        (["--unprompted", "0", "--temperature", "1"], "--unprompted: must be at least 1, found 0"),
        (["--unprompted", "3", "--temperature", "1", "--stream"], "--unprompted: cannot be streamed"),
    ],
)
def test_what_cannot_be_written_unprompted_is_refused(start, capsys, words, said):
    assert run(["generate", str(start / "start"), *words]) == 2
    assert said in capsys.readouterr().err
