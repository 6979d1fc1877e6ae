"""Weights through the command line: import, train, export, verify."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from support.tiny_models import BERT, bert, vit

import jaxft
from jaxft.cli.main import run
from jaxft.huggingface.safetensors_files import stored_tensors

VOCABULARY = 67


def t5(directory: Path) -> Path:
    """A small T5 in bfloat16, in two files."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=24, d_kv=7, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="20KB")
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The small BERT with the heads of its pretraining."""
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    """A task that a small model learns at once, and text to replay."""
    directory = tmp_path_factory.mktemp("reviews")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(64):
        positive = bool(rng.integers(2))
        word = rng.choice(["good", "fine"] if positive else ["bad", "dull"])
        rows.append({"text": f"the {rng.choice(['film', 'plot'])} is {word}", "label": "yes" if positive else "no"})
    (directory / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "text.txt").write_text("\n\n".join(row["text"] for row in rows) + "\n")
    return directory


def recipe(directory: Path, source: Path, pooling: str = "first") -> Path:
    """A bidirectional recipe that starts from the weights."""
    path = directory / "recipe.yaml"
    path.write_text(f"""
name: tuned
model: {{pretrained: {source}, dropout: 0.0, attention_dropout: 0.0}}
streams:
  task:
    source: {{jsonl: task.jsonl}}
    objective: {{kind: sequence_classification, length: 16, pooling: {pooling}, dropout: 0.0}}
    batch_size: 16
  replay:
    source: {{text: text.txt}}
    objective: {{kind: masked_lm, length: 16}}
    batch_size: 4
evaluation:
  task: {{stream: task, source: {{jsonl: task.jsonl}}}}
optimizer: {{learning_rate: 3e-3}}
training: {{steps: 12}}
""")
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, source, reviews) -> Path:
    """A run that fine-tuned the BERT both ways."""
    directory = tmp_path_factory.mktemp("tuned")
    jaxft.train(recipe(directory, source), [f"data.directory={reviews}"], directory / "run", quiet=True)
    return directory / "run"


@pytest.mark.parametrize("make", [bert, t5, vit])
def test_what_is_imported_goes_back_unchanged(make, tmp_path, capsys):
    source = make(tmp_path / "source")
    assert run(["import", str(source), str(tmp_path / "imported")]) == 0
    assert run(["export", str(tmp_path / "imported"), str(tmp_path / "back")]) == 0
    capsys.readouterr()
    before, after = stored_tensors(source), stored_tensors(tmp_path / "back")
    held = [name for name in after if not name.startswith("cls.seq_relationship")]
    assert held
    for name in held:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name].read(), after[name].read(), err_msg=name)
    loaded, report = transformers.AutoModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}
    assert sum(p.numel() for p in loaded.parameters())


def test_an_imported_model_counts_positions_as_the_original(tmp_path, capsys):
    torch.manual_seed(0)
    config = transformers.RobertaConfig(vocab_size=VOCABULARY, **BERT | {"pad_token_id": 1})
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path / "source")
    assert run(["import", str(tmp_path / "source"), str(tmp_path / "imported")]) == 0
    ids = np.array([[1, 1, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = (ids != 1).astype(int)
    ours, theirs = (jaxft.load_pretrained(tmp_path / name) for name in ("imported", "source"))
    np.testing.assert_array_equal(ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits)


def multiple_choice(directory):
    return bert(directory, "BertForMultipleChoice")


@pytest.mark.parametrize("make", [bert, pytest.param(t5, marks=pytest.mark.slow), vit, multiple_choice])
def test_verify_compares_every_layer_with_torch(make, tmp_path, capsys):
    source = make(tmp_path / "source")
    assert run(["verify", str(source), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["byte_equal"] and result["agrees"]
    assert result["max_difference"] < 1e-4
    assert len(result["layers"]) == (2 if make is t5 else 1)
    assert max(result["layers"]) < 1e-4


def test_training_starts_from_the_weights_with_their_heads(source, reviews, tmp_path):
    jaxft.train(
        recipe(tmp_path, source),
        [f"data.directory={reviews}", "optimizer.learning_rate=1e-30", "training.steps=1"],
        tmp_path / "run",
        quiet=True,
    )
    trained, start = jaxft.load_pretrained(tmp_path / "run"), jaxft.load_pretrained(source)
    ids = np.array([[2, 11, 7, 13, 5, 3]])
    theirs = start(ids, head="masked_lm").logits
    np.testing.assert_allclose(trained(ids, head="masked_lm").logits, theirs, atol=1e-5)


def test_an_exported_classifier_predicts_the_same_in_transformers(tuned, reviews, tmp_path, capsys):
    assert run(["export", str(tuned), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert run(["predict", str(tuned), str(reviews / "task.jsonl"), "--output", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        logits = model(**tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")).logits
    for row, probabilities in zip(rows, torch.softmax(logits, -1).numpy(), strict=True):
        expected = {model.config.id2label[i]: p for i, p in enumerate(probabilities)}
        assert row["label"] == max(expected, key=expected.get)
        assert row["probabilities"] == pytest.approx(expected, abs=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "accuracy" in card and "name: tuned" in card


def test_another_head_can_be_exported(tuned, tmp_path, capsys):
    assert run(["export", str(tuned), str(tmp_path / "out"), "--head", "masked_lm", "--dtype", "bfloat16"]) == 0
    assert "BertForMaskedLM" in capsys.readouterr().out
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16


def test_a_run_opens_as_a_python_object(tuned):
    loaded = jaxft.load_pretrained(tuned)
    assert loaded(np.array([[2, 5, 3]])).logits.shape == (1, 2)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(["good film"])[0]) == "good film"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["import", "{nothing}", "{out}"], "no config.json"),
        (["export", "{nothing}", "{out}"], "holds no model"),
        (["export", "{tuned}", "{out}", "--head", "sentiment"], "no head 'sentiment'; there are task, masked_lm"),
        (["export", "{tuned}", "{source}"], "holds a model already"),
        (["export", "{tuned}", "{out}", "--step", "7"], "no checkpoint of step 7"),
        (["verify", "{nothing}"], "no config.json"),
    ],
)
def test_wrong_words_get_one_message_and_status_4(words, expected, tuned, source, tmp_path, capsys):
    places = {"nothing": tmp_path, "out": tmp_path / "out", "tuned": tuned, "source": source}
    assert run([word.format(**places) for word in words]) == 4
    captured = capsys.readouterr()
    assert expected in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_head_that_no_class_has_is_named(source, reviews, tmp_path, capsys):
    path = recipe(tmp_path, source, pooling="mean")
    jaxft.train(path, [f"data.directory={reviews}", "training.steps=1"], tmp_path / "run", quiet=True)
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 4
    assert "bert has no class with a sequence_classification head with pooling mean" in capsys.readouterr().err


def test_importing_jaxft_brings_no_torch():
    assert "torch" in sys.modules  # this module imports it, so the check needs a process of its own
    import subprocess

    code = "import sys, jaxft, jaxft.workflows.weights.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
