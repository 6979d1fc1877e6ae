"""Preparing data and looking at it, through the command line."""

from __future__ import annotations

import io
import json
import pathlib
import shutil
import sys

import pytest

from jaxft.cli.main import run
from jaxft.data.scripts import shares_of_scripts
from jaxft.reporting import reading

RECIPE = """
name: tiny
model: {preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 16, num_layers: 1, max_length: 64}
tokenizer: {path: TOKENIZER}
streams:
  task:
    source: {jsonl: train.jsonl}
    objective: {kind: sequence_classification, length: 24}
    batch_size: 2
  replay:
    source: [{text: LICENSE}, {jsonl: more.jsonl}]
    mixing: {weights: [3, 1]}
    objective: {kind: masked_lm, length: 64, mask_rate: 0.3}
    batch_size: 4
training: {steps: 2}
data: {cache: cache}
"""
TRAIN = [{"text": f"a {word} film", "label": label} for word, label in [("good", "pos"), ("bad", "neg")] * 4]
LICENSE = pathlib.Path(__file__).parents[2] / "LICENSE"  # some real English


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    assert run(["tokenizer", "train", str(LICENSE), "--output", str(directory), "--vocab-size", "300"]) == 0
    return directory


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LICENSE").write_bytes(LICENSE.read_bytes())
    write(tmp_path / "train.jsonl", TRAIN)
    write(tmp_path / "more.jsonl", [{"text": f"More text, number {i}, and so on."} for i in range(40)])
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("TOKENIZER", str(tokenizer)))
    return tmp_path


def write(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(capsys, *words: str):
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words: str) -> tuple[int, str]:
    status = run([*words])
    message = capsys.readouterr().err
    assert message.count("jaxft: ") == 1 and "Traceback" not in message
    return status, message


@pytest.mark.slow
def test_preparing_twice_does_it_once(folder, capsys):
    first = answer(capsys, "prepare", "recipe.yaml", "--workers", "0", "--quiet")["stores"]
    assert [store["source"] for store in first] == ["streams.task", "streams.replay[0]", "streams.replay[1]"]
    assert {store["status"] for store in first} == {"prepared"}
    assert [store["records"] for store in first][::2] == [8, 40]
    files = {path: path.stat().st_mtime_ns for path in pathlib.Path("cache/stores").rglob("*") if path.is_file()}
    again = answer(capsys, "prepare", "recipe.yaml", "--workers", "0")["stores"]
    assert {store["status"] for store in again} == {"there already"}
    assert files == {
        path: path.stat().st_mtime_ns for path in pathlib.Path("cache/stores").rglob("*") if path.is_file()
    }
    # Training finds them.
    assert run(["train", "recipe.yaml", "--quiet"]) == 0
    assert files.keys() == {path for path in pathlib.Path("cache/stores").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words", [("prepare", "--workers", "0"), ("train", "--dry-run"), ("data", "stats")], ids=" ".join
)
def test_who_waits_at_a_terminal_sees_what_is_read(folder, monkeypatch, words):
    monkeypatch.setattr(reading, "_PATIENCE_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")

    def told(quiet: bool = False) -> str:
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        assert run([*words, "recipe.yaml", *(["--quiet"] if quiet else [])]) == 0
        return terminal.getvalue()

    seen = told()
    assert "more.jsonl: 40 rows, 100% of 1.79 kB" in seen
    assert ("looking for duplicates: 100% of 40 rows" in seen) == (words == ("data", "stats"))
    if words != ("data", "stats"):
        shutil.rmtree("cache")
        assert "rows" not in told(quiet=True)


def test_parts_of_several_machines(folder, capsys):
    one = answer(capsys, "prepare", "recipe.yaml", "--workers", "0", "--shard", "1/2")["stores"]
    assert {store["status"] for store in one} == {"waiting for other parts"}
    other = answer(capsys, "prepare", "recipe.yaml", "--workers", "0", "--shard", "0/2")["stores"]
    assert {store["status"] for store in other} == {"prepared"}


def test_show_says_what_the_model_reads_and_predicts(folder, capsys):
    assert run(["data", "show", "recipe.yaml", "--rows", "1"]) == 0
    text = capsys.readouterr().out
    assert "task, row 0  label: " in text and "replay, row 0" in text
    assert "[MASK]→" in text and "[CLS]" in text and "\033" not in text
    shown = answer(capsys, "data", "show", "recipe.yaml", "--rows", "3")["rows"]
    assert [row["stream"] for row in shown] == ["task"] * 2 + ["replay"] * 3
    tokens = shown[2]["parts"]["input"]
    predicted = [token for token in tokens if token["target"] is not None]
    assert 0.2 < len(predicted) / len(tokens) < 0.4
    assert all(not token["special"] for token in tokens if token["target"] and token["text"] == token["target"])


@pytest.mark.parametrize(
    ("objective", "family", "marks"),
    [
        ("{kind: causal_lm}", "decoder", "«"),
        ("{kind: span_corruption}", "encoder-decoder", "<extra_id_0>"),
        ("{kind: contrastive}", "encoder", "input 2:"),
    ],
)
def test_show_of_other_objectives(folder, capsys, objective, family, marks):
    recipe = f"""
name: other
model: {{preset: {family}-tiny, max_length: 64}}
tokenizer: {{train: {{vocab_size: 300, sentinels: 9}}}}
streams: {{text: {{source: {{text: LICENSE}}, objective: {objective}, batch_size: 2}}}}
training: {{steps: 2}}
data: {{cache: cache}}
"""
    pathlib.Path("other.yaml").write_text(recipe)
    assert run(["data", "show", "other.yaml"]) == 0
    assert marks in capsys.readouterr().out


def test_stats_count_and_draw(folder, capsys):
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(TRAIN[0]) + "\n" + "{not json\n")
    policy = ("data.bad_rows.policy=quarantine", "data.bad_rows.limit=0.2")
    found = answer(capsys, "data", "stats", "recipe.yaml", *policy, "--picture", "lengths.png")
    task, text, _ = found["stores"]
    assert task["rows"] == 10 and task["records"] == 9 and sum(task["bad"].values()) == 1
    assert task["duplicates"] == 9 - 2
    assert text["lengths"]["minimum"] <= text["lengths"]["median"] <= text["lengths"]["maximum"]
    assert 0.5 < text["fill"] <= 1 and text["scripts"]["latin"] == 1
    assert found["streams"][1] == {**found["streams"][1], "name": "replay", "rows_per_step": 4}
    assert (folder / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert run(["data", "stats", "recipe.yaml", *policy]) == 0
    assert "duplicates" in capsys.readouterr().out
    (quarantine,) = (folder / "cache" / "stores").rglob("quarantine.jsonl")
    assert json.loads(quarantine.read_text())["reason"] == "malformed_json"


@pytest.mark.parametrize(
    "vocabulary",
    ["train: {vocab_size: 107, character_coverage: 1.0}", "byte_bpe: {vocab_size: 280}", "wordpiece: {vocab_size: 40}"],
)
def test_stats_tell_all_scripts_of_a_mixture(folder, capsys, vocabulary):
    texts = [
        "人人生而自由，在尊严和权利上一律平等。",
        "すべての人間は、生まれながらにして自由であり、",
        "モーツァルト",
        "모든 인간은 태어날 때부터",
        "يولد جميع الناس أحرارا",
        "Все люди рождаются свободными",
        "Toate fiinţele umane se nasc libere",
    ]
    write(folder / "more.jsonl", [{"text": text} for text in texts])
    streams = "{text: {source: {jsonl: more.jsonl}, objective: {kind: masked_lm}, batch_size: 1}}"
    words = ("data", "stats", "recipe.yaml", f"tokenizer={{{vocabulary}}}", f"streams={streams}")
    found = answer(capsys, *words)["stores"][0]
    if vocabulary.startswith("wordpiece"):  # what it does not know is no text in Latin letters
        assert found["unknown"] > 0.2 and found["scripts"].get("latin", 0) < 0.25
        return
    expected = shares_of_scripts(" ".join(texts))
    assert set(expected) == {"latin", "cyrillic", "hiragana", "han", "arabic", "hangul", "katakana"}
    assert found["unknown"] == 0 and found["scripts"] == pytest.approx(expected)
    assert run([*words]) == 0
    table = capsys.readouterr().out
    assert all(f"{script} {share:.0%}" in table for script, share in expected.items())


@pytest.mark.parametrize(
    ("overrides", "status", "words"),
    [
        (["streams.replay.mixing.weights=[1]"], 2, ["mixing.weights", "2 sources"]),
        (["streams.replay.mixing.weights=[1, -1]"], 2, ["weights"]),
        (["streams.replay.augmentation={delete: 0.1}"], 2, ["augmentation", "masked_lm"]),
        (["streams.task.augmentation={}"], 2, ["augmentation"]),
        (["streams.replay.objective={kind: minimal_pairs}"], 2, ["only measures"]),
        (["streams.replay.objective={kind: causal_lm, lenght: 3}"], 2, ["did you mean length"]),
        (["streams.replay.objective={kind: span_corruption}"], 2, ["encoder-decoder", "encoder"]),
        (["streams.replay.objective={kind: next_sentence}"], 2, ["token_types"]),
        (["streams.replay.objective={kind: permutation_lm}"], 2, ["transformer_xl"]),
        (
            ["streams.replay.objective={kind: contrastive}", "training.micro_batches=2"],
            2,
            ["micro_batches", "contrast"],
        ),
        (["data.bad_rows.policy=ignore"], 2, ["raise", "skip", "quarantine"]),
        (["data.workers=-1"], 2, ["workers"]),
        (["data.bad_rows.policy=skip"], 3, ["1 of 9 rows are bad", "malformed_json"]),
        ([], 3, ["train.jsonl:9"]),
    ],
)
def test_what_is_wrong_is_said(folder, capsys, overrides, status, words):
    with (folder / "train.jsonl").open("a") as file:
        file.write("{not json\n")
    if status == 2:  # the words are wrong whatever the data
        write(folder / "train.jsonl", TRAIN)
    found, message = refusal(capsys, "prepare", "recipe.yaml", "--workers", "0", *overrides)
    if found == 0:  # what only training asks for
        found, message = refusal(capsys, "train", "recipe.yaml", *overrides)
    assert found == status
    for word in words:
        assert word in message


@pytest.mark.parametrize("shard", ["2/2", "a/b", "1", "-1/2"])
def test_an_impossible_share_of_the_work(folder, capsys, shard):
    with pytest.raises(SystemExit) as stopped:
        run(["prepare", "recipe.yaml", "--shard", shard])
    assert stopped.value.code == 2
