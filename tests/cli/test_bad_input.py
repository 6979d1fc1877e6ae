"""What a user can get wrong, through the command line: one clear message, the documented status, nothing lost."""

from __future__ import annotations

import json
import pathlib

import pytest

from jaxft.cli.main import run

RECIPE = """
name: tiny
model: {preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 16, num_layers: 1, max_length: 16}
tokenizer: {path: TOKENIZER}
streams:
  task:
    source: {jsonl: train.jsonl}
    objective: {kind: sequence_classification, length: 16}
    batch_size: 2
evaluation:
  held:
    stream: task
    source: {jsonl: dev.jsonl}
    metrics: [accuracy, f1]
training: {steps: 2, seed: 1}
"""

TRAIN = [{"text": f"a {word} film", "label": label} for word, label in [("good", "pos"), ("bad", "neg")] * 4]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    licence = pathlib.Path(__file__).parents[2] / "LICENSE"  # some real English
    assert run(["tokenizer", "train", str(licence), "--output", str(directory), "--vocab-size", "200"]) == 0
    return directory


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    """A directory with a good recipe and good data, to be spoiled."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.jsonl", TRAIN)
    write_rows(tmp_path / "dev.jsonl", TRAIN[:2])
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("TOKENIZER", str(tokenizer)))
    return tmp_path


def write_rows(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def refusal(capsys, *words: str) -> tuple[int, str]:
    """Status and message of a command that must fail: one message, no traceback."""
    status = run([*words])
    captured = capsys.readouterr()
    messages = [line for line in captured.err.splitlines() if line.startswith("jaxft: ")]
    assert len(messages) == 1, captured.err
    assert "Traceback" not in captured.err
    return status, captured.err[captured.err.index("jaxft: ") :]


def test_the_unspoiled_recipe_trains(folder, capsys):
    assert run(["train", "recipe.yaml", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (None, 2, ["train.jsonl", "streams.task.source"]),
        (b"", 3, ["train.jsonl is empty"]),
        (b'{"text": "a", "label": "pos"}\n{"text": "\xff", "label": "neg"}\n', 3, ["train.jsonl:2", "UTF-8", "0xff"]),
        (b'{"text": "a", "label": "pos"}\n\n{"text": "a" "label"}\n', 3, ["train.jsonl:3", "not valid JSON"]),
        (b'{"text": "a", "label": "pos"}\n{"txt": "a", "label": "neg"}\n', 3, ["train.jsonl:2", "text", "txt"]),
        (b'{"text": "a", "label": "pos"}\n{"text": "a", "lable": "neg"}\n', 3, ["train.jsonl:2", "label", "lable"]),
        (b'{"text": "a", "label": "pos"}\n{"text": "  ", "label": "neg"}\n', 3, ["train.jsonl:2", "empty"]),
        (b'{"text": "a", "label": "pos"}\n{"text": "b", "label": "pos"}\n', 3, ["task", "only the label 'pos'"]),
        (b'{"text": "a", "label": 0.5}\n{"text": "b", "label": "pos"}\n', 3, ["train.jsonl:1", "0.5"]),
        (b'{"text": "a good film", "label": "pos"}\n{"text": "a bad film", "label": "neg"}\n', 0, []),
        (b'{"text": "a", "label": "pos"}\n', 3, ["only the label 'pos'"]),
    ],
)  # fmt: skip
def test_bad_training_data(folder, capsys, content, status, said):
    if content is None:
        (folder / "train.jsonl").unlink()
    else:
        (folder / "train.jsonl").write_bytes(content)
    if status == 0:
        assert run(["train", "recipe.yaml", "--quiet"]) == 0
        return
    found, message = refusal(capsys, "train", "recipe.yaml", "--quiet")
    assert found == status, message
    for part in said:
        assert part in message


def test_a_label_that_training_never_saw(folder, capsys):
    write_rows(folder / "dev.jsonl", [*TRAIN[:2], {"text": "a film", "label": "nge"}])
    status, message = refusal(capsys, "train", "recipe.yaml", "--quiet")
    assert status == 3
    assert "dev.jsonl:3" in message and "'nge'" in message and "did you mean 'neg'" in message


@pytest.mark.parametrize(
    ("override", "status", "said"),
    [
        ("streams.task.batch_size=16", 2, ["streams.task.batch_size", "larger than the data", "8 examples"]),
        ("evaluation.held.metrics=[acuracy]", 2, ["evaluation.held.metrics", "'acuracy'", "accuracy"]),
        ("model.vocab_size=30", 2, ["model.vocab_size", "200 tokens", "30 rows"]),
        ("streams.task.objective.length=64", 2, ["streams.task.objective.length", "max_length 16", "64"]),
        ("tokenizer.path=nowhere", 2, ["nowhere", "does not exist"]),
        ("model={pretrained: nowhere}", 4, ["nowhere", "does not exist"]),
        ("streams.task.batch_sise=2", 2, ["streams.task.batch_sise", "unknown key", "did you mean batch_size"]),
        ("checkpoint.best=held.loss", 2, ["checkpoint.best", "'held.loss'", "held.accuracy"]),
        ("training.early_stopping={metric: acc}", 2, ["training.early_stopping.metric", "'acc'"]),
        ("mesh.tensor=3", 2, ["mesh", "1 devices"]),
        ("optimizer.no_decay=[trunk/bodi]", 2, ["optimizer.no_decay", "trunk/bodi", "trunk/body"]),
        ("model.num_heads=3", 2, ["model.num_heads", "does not divide"]),
        ("training.steps=two", 2, ["training.steps", "a whole number", "'two'"]),
        ("streams.task.objective={kind: masked_lm}", 2, ["evaluation.held.metrics", "'f1'"]),
    ],
)
def test_values_that_do_not_fit(folder, capsys, override, status, said):
    found, message = refusal(capsys, "train", "recipe.yaml", override, "--quiet")
    assert found == status, message
    for part in said:
        assert part in message


def test_texts_longer_than_the_model_are_cut_and_counted(folder, capsys):
    write_rows(folder / "train.jsonl", [*TRAIN, {"text": "good " * 100, "label": "pos"}])
    assert run(["train", "recipe.yaml", "--quiet"]) == 0
    assert "streams.task: 1 of 9 texts are longer than 14 tokens and were cut" in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_written(folder, capsys):
    (folder / "file").write_text("in the way")
    status, message = refusal(capsys, "train", "recipe.yaml", "--quiet", "--run-dir", "file/run")
    assert status == 2 and "file/run cannot be written" in message


def test_a_missing_recipe_and_a_recipe_that_is_no_yaml(folder, capsys):
    status, message = refusal(capsys, "train", "recipes.yaml")
    assert status == 2 and "recipes.yaml: no such recipe" in message
    (folder / "broken.yaml").write_text("name: [1, 2\nmodel: 3\n")
    status, message = refusal(capsys, "train", "broken.yaml")
    assert status == 2 and "broken.yaml:2" in message


def test_a_changed_recipe_is_refused_with_its_keys_and_the_run_stays(folder, capsys):
    assert run(["train", "recipe.yaml", "--quiet", "--run-dir", "run"]) == 0
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    status, message = refusal(
        capsys, "train", "recipe.yaml", "--quiet", "--run-dir", "run", "optimizer.learning_rate=1e-2", "training.seed=5"
    )
    assert status == 2
    assert "optimizer.learning_rate: 0.0001 there, 0.01 here" in message and "training.seed: 1 there, 5 here" in message
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before


def test_changed_data_is_refused(folder, capsys):
    assert run(["train", "recipe.yaml", "--quiet", "--run-dir", "run"]) == 0
    write_rows(folder / "train.jsonl", TRAIN[:-1])
    status, message = refusal(capsys, "train", "recipe.yaml", "--quiet", "--run-dir", "run")
    assert status == 2 and "the data of streams.task has changed" in message


def test_two_processes_cannot_write_one_run(folder, capsys):
    import fcntl

    (folder / "run").mkdir()
    with (folder / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, message = refusal(capsys, "train", "recipe.yaml", "--quiet", "--run-dir", "run")
    assert status == 2 and "another process" in message


@pytest.mark.parametrize("verb", [["evaluate"], ["predict"]])
def test_verbs_on_what_is_no_run(folder, capsys, verb):
    words = ["train.jsonl"] if verb == ["predict"] else []
    status, message = refusal(capsys, *verb, "nowhere", *words)
    assert status == 4 and "nowhere" in message
    pathlib.Path("empty").mkdir()
    status, message = refusal(capsys, *verb, "empty", *words)
    assert status == 4 and "no recipe.yaml" in message


def test_a_damaged_checkpoint_is_not_used(folder, capsys):
    assert run(["train", "recipe.yaml", "--quiet", "--run-dir", "run"]) == 0
    data = next(path for path in (folder / "run/checkpoints/2/parameters").rglob("d/*") if path.is_file())
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    status, message = refusal(capsys, "evaluate", "run")
    assert status == 4 and "damaged" in message


def test_bad_rows_to_predict_leave_no_output(folder, capsys):
    assert run(["train", "recipe.yaml", "--quiet", "--run-dir", "run"]) == 0
    (folder / "in.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    status, message = refusal(capsys, "predict", "run", "in.jsonl", "--output", "out.jsonl")
    assert status == 3 and "in.jsonl:2" in message
    assert not (folder / "out.jsonl").exists()


def test_a_loss_that_stops_being_finite_ends_with_status_5(folder, capsys):
    status, message = refusal(
        capsys,
        "train",
        "recipe.yaml",
        "--quiet",
        "training.steps=40",
        "optimizer={name: sgd, learning_rate: 1e30}",
        "training.skips_allowed=2",
        "schedule={name: constant, warmup: 0}",
        "training.log_every=1",
    )
    assert status == 5 and "training diverged" in message and "learning_rate" in message


def test_a_recipe_is_copied_but_never_over_a_file(folder, capsys):
    assert run(["recipes", "copy", "quickstart", "mine.yaml"]) == 0
    status, message = refusal(capsys, "recipes", "copy", "quickstart", "mine.yaml")
    assert status == 2 and "mine.yaml exists already" in message


def test_a_word_that_is_no_verb_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as exit_:
        run(["trian"])
    assert exit_.value.code == 2
