"""Images from folders and arrays to a classifier that transformers loads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from sklearn.datasets import load_digits
from support.tiny_models import vit

from jaxft.cli.main import run
from jaxft.recipe.library import load_recipe

SIZE = 8


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Arrays of 8x8 digits, and a folder with some of the held-out ones."""
    directory = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, SIZE, SIZE)
    order = np.random.default_rng(0).permutation(len(labels))
    for name, rows in (("train", order[:1437]), ("test", order[1437:])):
        np.savez(directory / f"digits_{name}.npz", images=images[rows] / 16, labels=labels[rows])
    for number, index in enumerate(order[1437:1457]):
        path = directory / "folder" / str(labels[index]) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.rint(images[index] / 16 * 255).astype(np.uint8)).save(path)
    return directory


@pytest.fixture(scope="module")
def trained(digits) -> Path:
    """A short run of the recipe."""
    words = ["model.num_layers=2", "training.epochs=6", "training.evaluate_every=150", f"data.directory={digits}"]
    mix = ["streams.digits.objective.mixup=0.1", "streams.digits.objective.label_smoothing=0.05"]
    words += ["mesh={data: 1}", "checkpoint.best=null", *mix]
    assert run(["train", "finetune/digits", "--run-dir", str(digits / "run"), "--quiet", *words]) == 0
    return digits / "run"


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_a_small_vit_reads_digits(trained):
    found = json.loads((trained / "summary.json").read_text())["evaluation"]["test"]
    assert found["accuracy"] > 0.8


def test_predictions_on_files_and_arrays_and_the_exported_model_agree(trained, digits, tmp_path, capsys):
    capsys.readouterr()
    assert run(["predict", str(trained), str(digits / "digits_test.npz")]) == 0
    arrays = lines(capsys)
    assert len(arrays) == 360 and "image" not in arrays[0]
    summary = json.loads((trained / "summary.json").read_text())
    right = np.mean([row["label"] == str(row["given_label"]) for row in arrays])
    assert right == pytest.approx(summary["evaluation"]["test"]["accuracy"])
    assert run(["predict", str(trained), str(digits / "folder")]) == 0
    files = {Path(row["image"]).name: row for row in lines(capsys)}
    for number in range(20):
        row = files[f"{number:02}.png"]
        assert row["probabilities"] == arrays[number]["probabilities"]
        assert row["given_label"] == Path(row["image"]).parent.name
    assert run(["export", str(trained), str(tmp_path / "exported")]) == 0
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "exported").eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "exported")
    assert model.config.id2label[3] == "3"
    images = [np.asarray(PIL.Image.open(files[f"{number:02}.png"]["image"])) for number in range(20)]
    mean, deviation = processor.image_mean[0], processor.image_std[0]
    pixels = np.stack([(image[None] / 255 - mean) / deviation for image in images])
    with torch.no_grad():
        probabilities = model(torch.tensor(pixels, dtype=torch.float32)).logits.softmax(-1).numpy()
    theirs = [list(files[f"{number:02}.png"]["probabilities"].values()) for number in range(20)]
    np.testing.assert_allclose(probabilities, theirs, atol=2e-5)


def test_images_without_labels_are_predicted_too(trained, digits, tmp_path, capsys):
    for path in sorted((digits / "folder").rglob("*.png"))[:3]:
        (tmp_path / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    capsys.readouterr()
    assert run(["predict", str(trained), str(tmp_path)]) == 0
    assert [Path(row["image"]).parent for row in lines(capsys)] == [tmp_path] * 3
    (tmp_path / "z.png").write_text("no image")
    assert run(["predict", str(trained), str(tmp_path)]) == 3
    assert "z.png: not a readable image" in capsys.readouterr().err


def test_a_pretrained_vit_keeps_its_normalization(digits, tmp_path, capsys):
    source = vit(tmp_path / "vit")
    preprocessing = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_normalize": True}
    (source / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"""
name: folders
model: {{pretrained: {source}}}
streams:
  task:
    source: {{images: folder}}
    objective: {{kind: image_classification, flip: true}}
    batch_size: 4
training: {{steps: 2}}
data: {{directory: {digits}}}
""")
    assert run(["train", str(recipe), "--run-dir", str(tmp_path / "run"), "--quiet"]) == 0
    recipe, _ = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert recipe.streams["task"].objective.mean == (0.4, 0.5, 0.6)
    assert run(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert written["image_mean"] == [0.4, 0.5, 0.6] and written["size"] == {"height": 12, "width": 12}


@pytest.mark.parametrize(
    ("override", "status", "message"),
    [
        ("streams.digits.objective.mean=[0.5,0.5,0.5]", 2, "deviation"),
        ("streams.digits.objective={kind: image_classification, mean: [0,0,0], deviation: [1,1,1]}", 2, "3 channels"),
        ("streams.digits.objective={kind: sequence_classification}", 2, "decoder or encoder, not vision"),
        ("streams.digits.objective.image=picture", 3, "there is no column 'picture'"),
        ("streams.digits.objective.labels=[a, b]", 3, "label '.' was not seen in training, which has 'a', 'b'"),
        ("model={preset: encoder-tiny}", 2, "tokenizer"),
        ("streams.digits.objective.crop=0", 2, "crop: must lie between 0 and 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(digits, tmp_path, capsys, monkeypatch, override, status, message):
    monkeypatch.chdir(tmp_path)
    words = ["train", "finetune/digits", "--dry-run", f"data.directory={digits}", override]
    found = run(words)
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert found == status and "Traceback" not in error


@pytest.mark.slow
def test_ways_to_learn_images_are_compared(trained, digits, capsys):
    """The divergence from the start is measured on texts; images have none, and are compared without it."""
    recipe = digits / "compare.yaml"
    recipe.write_text(f"""
name: images
model: {{pretrained: {trained}}}
streams:
  again: {{source: {{arrays: digits_train.npz, limit: 128}}, objective: {{kind: image_classification}}, batch_size: 32}}
  digits: {{source: {{arrays: digits_train.npz}}, objective: {{kind: image_classification}}, batch_size: 8}}
evaluation:
  task: {{stream: again, source: {{arrays: digits_test.npz}}}}
  kept: {{stream: digits, source: {{arrays: digits_test.npz}}}}
training: {{steps: 2}}
mesh: {{data: 1}}
compare: {{task: task.accuracy, retained: kept.loss, arms: {{one-way: {{replay: 0}}}}, seeds: [0]}}
""")
    assert run(["compare", str(recipe), "--run-dir", str(digits / "compared"), "--quiet"]) == 0
    assert "one-way" in capsys.readouterr().out
    (result,) = (digits / "compared").rglob("result.json")
    assert json.loads(result.read_text())["divergence"] is None
