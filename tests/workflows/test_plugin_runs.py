"""A run by a plug-in's objective, metric, source and optimizer: trained, stopped, gone on with, evaluated, exported."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
from several import ended, started
from support.plugged import PLUGIN, forget_plugins, write

import jaxft
from jaxft.cli.main import run as command
from jaxft.errors import Interrupted, RecipeError
from jaxft.workflows.prepare.prepare import prepare


class Stop(jaxft.Callback):
    """Stops a run as one Ctrl-C does."""

    is_done = False

    def on_log(self, step, metrics):
        if not self.is_done:
            self.is_done = True
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A recipe with its plug-in, which is loaded while this module's tests run, and a run of it that was stopped."""
    with pytest.MonkeyPatch.context() as patch:
        forget_plugins(patch)
        directory = tmp_path_factory.mktemp("plugged")
        recipe = write(directory)
        words = ("training.log_every=2", "training.evaluate_every=6")
        with pytest.raises(Interrupted):
            jaxft.train(recipe, words, directory / "run", quiet=True, callbacks=[Stop()])
        yield recipe, words, directory / "run"


@pytest.fixture
def stopped(loaded, tmp_path):
    """A copy of what was stopped."""
    recipe, words, run = loaded
    shutil.copytree(run, tmp_path / "run")
    return recipe, words, tmp_path / "run"


def message(*words: str, capsys) -> str:
    """What the command says where it refuses."""
    assert command([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_it_goes_on_and_can_be_used_like_any_other(stopped, tmp_path, capsys):
    recipe, words, run = stopped
    summary = jaxft.train(recipe, words, run, quiet=True)
    whole = jaxft.train(recipe, words, tmp_path / "whole", quiet=True)
    ours, theirs = (jaxft.load_pretrained(path).params for path in (run, tmp_path / "whole"))

    assert summary["steps"] == 12 and summary["evaluation"] == whole["evaluation"]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))
    evaluated = jaxft.evaluate(run)["evaluation"]["held"]
    assert evaluated["mean_margin"] == pytest.approx(summary["evaluation"]["held"]["mean_margin"], rel=1e-6)
    assert evaluated["mean_margin"] > 0.5

    # What leaves for transformers has the objective's score for a head of one output.
    assert command(["export", str(run), str(tmp_path / "exported"), "--json"]) == 0
    exported = jaxft.load_pretrained(tmp_path / "exported")
    assert json.loads(capsys.readouterr().out)["class"].endswith("ForSequenceClassification")
    ids = exported.tokenizer.encode(["a good film number 1"])[0][None]
    plain = jaxft.load_pretrained(run)
    assert np.allclose(exported(input_ids=ids).logits, plain(input_ids=ids, head="task").logits, atol=1e-5)


def test_what_it_was_trained_with_is_written_down(stopped):
    _, _, run = stopped
    digest = hashlib.sha256(PLUGIN.encode()).hexdigest()
    assert list(json.loads((run / "environment.json").read_text())["plugins"].values()) == [digest]
    assert json.loads((run / "identity.json").read_text())["plugins"] == {"mine.py": digest}


def test_a_plugin_that_has_changed_is_refused_by_name_and_nothing_is_lost(stopped, tmp_path, monkeypatch, capsys):
    _, words, run = stopped
    forget_plugins(monkeypatch)
    recipe = write(tmp_path, PLUGIN.replace("margin: float = 1.0", "margin: float = 2.0"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    assert "mine.py has changed" in message("train", recipe, *words, "--run-dir", run, "--quiet", capsys=capsys)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_plugin_that_has_changed_since_is_refused_where_the_run_is_used(stopped, tmp_path, monkeypatch, capsys):
    recipe, _, run = stopped
    forget_plugins(monkeypatch)
    written = (run / "recipe.yaml").read_text()
    write(tmp_path, PLUGIN + "\n# another\n")
    (run / "recipe.yaml").write_text(written.replace(str(recipe.parent / "mine.py"), str(tmp_path / "mine.py")))
    for words in (["evaluate", run], ["predict", run, tmp_path / "rows.jsonl"], ["export", run, tmp_path / "out"]):
        assert "mine.py has changed" in message(*words, capsys=capsys)


def test_the_same_plugin_may_lie_elsewhere(stopped, tmp_path, monkeypatch):
    _, words, run = stopped
    forget_plugins(monkeypatch)
    assert jaxft.train(write(tmp_path), words, run, quiet=True)["steps"] == 12


@pytest.mark.parametrize("place", ["mine.py", "checkpoints/mine.py"])
def test_no_code_is_taken_out_of_the_run_that_names_it(stopped, place, monkeypatch, capsys):
    """As of one that somebody sent: its recipe may name what lies beside it."""
    _, _, run = stopped
    forget_plugins(monkeypatch)
    (run / place).write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').write_text('')\n")
    document = (run / "recipe.yaml").read_text()
    named = next(line for line in document.splitlines() if line.endswith("mine.py"))
    (run / "recipe.yaml").write_text(document.replace(named, f"- {run / place}"))
    assert "out of which no code is taken" in message("evaluate", run, capsys=capsys)
    with pytest.raises(RecipeError, match="no code is taken"):
        jaxft.load_pretrained(run)
    assert not (run / place).with_suffix(".ran").exists()


def test_a_model_with_a_recipe_beside_it_runs_nothing(stopped, tmp_path):
    """A directory in Hugging Face layout is a model, whatever else lies there."""
    from support.tiny_models import bert

    bert(tmp_path / "bert")
    ran = pathlib.Path(tmp_path / "bert" / "ran")
    (tmp_path / "bert" / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (tmp_path / "bert" / "recipe.yaml").write_text("plugins: [mine.py]\n")
    jaxft.load_pretrained(tmp_path / "bert")
    assert not ran.exists()


def test_an_objective_that_reads_rows_otherwise_has_other_stores(tmp_path, monkeypatch):
    directories = []
    for text in (
        PLUGIN,
        PLUGIN.replace('return Fields(self.texts(row), {"sign"', 'return Fields(self.texts(row), {"sign" '),
    ):
        forget_plugins(monkeypatch)
        stores = prepare(write(tmp_path, text), workers=0)
        directories.append(next(one["directory"] for one in stores if one["source"] == "streams.task"))
    assert directories[0] != directories[1]


@pytest.mark.slow
def test_processes_with_other_code_in_a_plugin_do_not_begin(tmp_path):
    """Their recipes may lie at other places; what the files hold is compared."""
    (tmp_path / "other").mkdir()
    recipe, other = write(tmp_path), write(tmp_path / "other", PLUGIN.replace("a {word} film", "one {word} film"))
    words = ("train", str(recipe), "--run-dir", str(tmp_path / "run"), "--quiet")
    with started(2, *words, of_last=(f"plugins=[{other.parent / 'mine.py'}]",)) as processes:
        told = ended(processes, 240)
    assert {code for code, _, _ in told} == {2}, told
    assert any("code.mine.py" in err for _, _, err in told), told
    assert not (tmp_path / "run" / "recipe.yaml").exists()
