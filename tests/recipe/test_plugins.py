"""Plug-ins: found, loaded once, taken back when they break, validated like our own, and told apart by their code."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import pathlib
import re
import sqlite3
import subprocess
import sys

import pytest
import yaml
from support.plugged import PLUGIN, RECIPE, write

from jaxft.data.processes import mapped_in_order
from jaxft.data.sources import SourceConfig, read_rows, source_fingerprint
from jaxft.data.sources.added import SOURCES
from jaxft.errors import CheckpointError, RecipeError
from jaxft.evaluation.measures import MEASURES
from jaxft.extension import loading
from jaxft.huggingface.architectures import architecture_of, architectures
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.objectives.registry import kinds
from jaxft.parallel.mesh import MeshConfig, abstract_mesh
from jaxft.recipe.decoding import encode
from jaxft.recipe.library import load_recipe, recipe_from_text, recipe_to_text
from jaxft.recipe.plugins import check_plugins_unchanged, plugin_digests
from jaxft.workflows.launch import LaunchOptions, plan_launch
from jaxft.workflows.plan.blueprint import make_blueprint
from jaxft.workflows.prepare.data_show import rows_text, show_data
from jaxft.workflows.train.train import train

pytestmark = pytest.mark.usefixtures("forgotten")

EMPTY = "from jaxft import plugins\n"
METRIC = EMPTY + '@plugins.metric("{name}", objectives=["hinge"])\ndef measure(evaluated):\n    return 0.0\n'


def refused(path: pathlib.Path, *overrides: str, **options) -> str:
    """The message by which a recipe is refused."""
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides, **options)
    return str(error.value)


# --- In a recipe ---


def test_names_of_a_plugin_are_decoded_and_encoded_like_our_own(tmp_path):
    recipe, _ = load_recipe(write(tmp_path))
    assert recipe.plugins == (str(tmp_path / "mine.py"),)
    task = recipe.streams["task"]
    assert task.objective.kind == "hinge" and task.objective.margin == 1.0
    assert task.source[0].format == "phrases" and task.source[0].added.count == 64
    assert encode(task.source[0])["phrases"] == {"count": 64, "words": ["good", "bad"]}
    assert recipe_from_text(recipe_to_text(recipe), "again.yaml") == recipe
    rows = list(read_rows(recipe.evaluation["held"].source[0], tmp_path))
    assert len(rows) == 10 and rows[0].location == "phrases:1" and rows[1].values["sign"] == -1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("streams.task.objective.margn=2", "unknown key; did you mean margin?"),
        ("streams.task.objective.margin=wide", "streams.task.objective.margin: expected a number"),
        ("streams.task.objective={kind: hing}", "did you mean hinge?"),
        ("streams.task.objective={kind: nothing}", "sentence_similarity, hinge, found 'nothing'"),
        ("streams.task.source={phrases: {cuont: 3}}", "streams.task.source.0.phrases.cuont: unknown key; did you mean"),
        ("streams.task.source={phrase: {count: 3}}", "did you mean phrases?"),
        ("streams.task.source={phrases: {}, jsonl: a.jsonl}", "arrays, tfds, hf, embedded, phrases; found jsonl and"),
        ("streams.task.source={added: {}}", "unknown key"),
        ("optimizer.name=sings", "did you mean signs?"),
        ("optimizer.name=none", "muon, sgd, signs, found 'none'"),
    ],
)
def test_mistakes_in_what_a_plugin_has_are_named_like_those_in_our_own(tmp_path, override, said):
    assert said in refused(write(tmp_path), override)


def test_without_its_plugin_a_recipe_does_not_know_its_names(tmp_path):
    path = write(tmp_path, recipe=RECIPE.replace("plugins: [mine.py]\n", ""))
    assert "unknown key" in refused(path) and "hinge" not in kinds()


def test_a_metric_is_one_of_the_objectives_that_it_names(tmp_path):
    path = write(tmp_path)
    with pytest.raises(RecipeError, match=r"evaluation.held.metrics: 'f2' .* which has loss, accuracy, mean_margin"):
        train(path, ["evaluation.held.metrics=[f2]"], tmp_path / "run", quiet=True)
    words = ["streams.task.objective={kind: masked_lm}", "evaluation.held.metrics=[mean_margin]"]
    with pytest.raises(RecipeError, match="'mean_margin' is not a metric of this objective"):
        train(path, [*words, "checkpoint.best=held.loss"], tmp_path / "run", quiet=True)


# --- Files that cannot be used ---


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        ("x = 1\ndef broken(:\n    pass\n", "mine.py:2: not valid Python: "),
        ("\n\n1 / 0\n", "mine.py:3: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found\n", "mine.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("import sys\nsys.exit('never')\n", "mine.py:2: SystemExit: never"),
        ("x = 1\n", "mine.py: adds nothing to jaxft"),
        (METRIC.format(name="rougeL"), "mine.py:2: metric 'rougeL': this name is jaxft's own"),
        (METRIC.format(name="not a name"), "mine.py:2: metric 'not a name': a name begins with"),
        (PLUGIN.replace('"signs"', '"adamw"'), "optimizer 'adamw': this name is jaxft's own"),
        (PLUGIN.replace('"phrases"', '"jsonl"'), "source 'jsonl': this name is jaxft's own"),
        (PLUGIN.replace('"phrases"', '"limit"'), "source 'limit': this name is jaxft's own"),
        (PLUGIN.replace('"hinge"', '"masked_lm"'), "objective 'masked_lm': this name is jaxft's own"),
        (
            PLUGIN.replace("margin: float", "margin: list[float]"),
            "margin: a recipe cannot say list[float]",
        ),
        (PLUGIN.replace("count: int", "count: Missing"), "Phrases: Phrases: its annotations cannot be read"),
        (PLUGIN.replace("(plugins.AddedSource)", ""), "Phrases must be a dataclass whose base is AddedSource"),
    ],
)
def test_a_broken_plugin_is_one_message_and_leaves_nothing_behind(tmp_path, plugin, said):
    path = write(tmp_path, plugin)
    found = refused(path)
    assert found.startswith(f"{path}:3: plugins: mine.py: {tmp_path / 'mine.py'}") and said in found
    assert "hinge" not in kinds() and "phrases" not in SOURCES and "mean_margin" not in MEASURES
    write(tmp_path)  # put right, it can be loaded without another start
    assert load_recipe(path)[0].optimizer.name == "signs"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("other.py", "other.py cannot be read: No such file"),
        ("no.such_module", "there is no module no of Python here"),
        ("..", "there is no module"),
        ("[]", None),
        ("[3]", "expected paths of files or names of modules"),
        ("{a: b}", "expected paths of files or names of modules"),
    ],
)
def test_a_plugin_that_is_not_there_is_named(tmp_path, written, said):
    path = write(tmp_path, recipe=RECIPE.replace("[mine.py]", written))
    assert (said or "unknown key") in refused(path)


def test_two_plugins_cannot_have_the_same_name_of_anything(tmp_path):
    path = write(tmp_path, recipe=RECIPE.replace("[mine.py]", "[mine.py, other.py]"))
    (tmp_path / "other.py").write_text(METRIC.format(name="mean_margin"))
    found = refused(path)
    assert f"other.py:2: metric 'mean_margin': this name is that of plug-in {tmp_path / 'mine.py'}" in found
    (tmp_path / "other.py").write_text(METRIC.format(name="another"))
    assert list(plugin_digests(load_recipe(path)[0])) == ["mine.py", "other.py"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "other.py").write_text(METRIC.format(name="third"))
    assert "two of them are called other.py" in refused(path, "plugins=[other.py, deep/other.py]")


def test_a_file_is_run_once_and_is_refused_once_it_has_changed(tmp_path):
    path = write(tmp_path, PLUGIN + f"\nwith open('{tmp_path}/runs', 'a') as file:\n    file.write('x')\n")
    first, second = load_recipe(path)[0], load_recipe(path)[0]
    assert first == second and (tmp_path / "runs").read_text() == "x"
    assert type(first.streams["task"].objective) is type(second.streams["task"].objective)
    (tmp_path / "mine.py").write_text(PLUGIN + "\n# changed\n")
    assert "mine.py has changed since this program loaded it" in refused(path)


# --- What must not be run ---


def model_directory(path: pathlib.Path, *files: str) -> pathlib.Path:
    """A directory with these files and a plug-in."""
    path.mkdir(parents=True)
    for name in (*files, "evil.py"):
        (path / name).write_text("raise RuntimeError('this was run')\n")
    return path


@pytest.mark.parametrize("files", [("model.json",), ("identity.json",), ("config.json", "model.safetensors")])
@pytest.mark.parametrize("place", ["", "checkpoints/10/"])
def test_no_code_is_taken_out_of_a_models_directory(tmp_path, files, place, monkeypatch):
    directory = model_directory(tmp_path / "model", *files)
    if place:
        (directory / place).mkdir(parents=True)
        (directory / "evil.py").rename(directory / place / "evil.py")
    path = write(tmp_path, recipe=RECIPE.replace("mine.py", f"model/{place}evil.py"))
    assert f"evil.py: lies in {directory}, the directory of a model or a run" in refused(path)
    (tmp_path / "link.py").symlink_to(directory / place / "evil.py")
    assert "lies in" in refused(path, "plugins=[link.py]")
    monkeypatch.syspath_prepend(str(directory / place))
    assert "lies in" in refused(path, "plugins=[evil]")


def test_no_code_is_taken_out_of_the_directories_that_a_caller_names(tmp_path, monkeypatch):
    directory = model_directory(tmp_path / "run")
    inside = directory / "recipe.yaml"
    for written in ("evil.py", str(directory / "evil.py"), "../run/evil.py", "package.evil"):
        inside.write_text(RECIPE.replace("mine.py", written))
        monkeypatch.syspath_prepend(str(directory))
        (directory / "package").mkdir(exist_ok=True)
        (directory / "package" / "__init__.py").write_text("raise RuntimeError('this was run')\n")
        assert f"lies in {directory}" in refused(inside, never_from=[directory]), written
    (tmp_path / "elsewhere").symlink_to(directory)
    inside.write_text(RECIPE.replace("mine.py", str(tmp_path / "elsewhere" / "evil.py")))
    assert "lies in" in refused(inside, never_from=[directory])
    inside.write_text(RECIPE.replace("mine.py", "../mine.py"))
    write(tmp_path)
    assert load_recipe(inside, never_from=[directory])[0].plugins == (str(tmp_path / "mine.py"),)


# --- Digests ---


def test_digests_are_those_of_the_files_and_tell_what_has_changed(tmp_path):
    recipe, _ = load_recipe(write(tmp_path))
    digests = plugin_digests(recipe)
    assert digests == {"mine.py": hashlib.sha256(PLUGIN.encode()).hexdigest()}
    check_plugins_unchanged(digests, dict(digests), "runs/a")
    with pytest.raises(RecipeError, match=r"runs/a began with other plug-ins: mine\.py has changed"):
        check_plugins_unchanged({"mine.py": "0"}, digests, "runs/a")
    with pytest.raises(RecipeError, match=r"mine\.py was not there, b\.c is there no more"):
        check_plugins_unchanged({"b.c": "0"}, digests, "runs/a")


def test_a_recipe_without_plugins_has_no_digests_and_does_not_speak_of_them(tmp_path):
    text = RECIPE.replace("plugins: [mine.py]\n", "").replace("phrases: {count: 64}", "jsonl: a.jsonl")
    text = text.replace("phrases: {count: 20}", "jsonl: b.jsonl").replace("hinge", "masked_lm").replace("signs", "sgd")
    recipe = recipe_from_text(text, "plain.yaml")
    assert plugin_digests(recipe) == {} and "plugins" not in yaml.safe_load(recipe_to_text(recipe))


def test_a_source_is_told_apart_by_its_values_and_by_its_code(tmp_path, monkeypatch):
    recipe, _ = load_recipe(write(tmp_path))
    source = recipe.streams["task"].source[0]
    same = source_fingerprint(SourceConfig(added=type(source.added)(count=64)), tmp_path)
    assert same == source_fingerprint(source, tmp_path)
    assert same != source_fingerprint(SourceConfig(added=type(source.added)(count=65)), tmp_path)
    assert same != source_fingerprint(SourceConfig(added=type(source.added)(count=64), limit=3), tmp_path)
    before = SOURCES.plugin("phrases")
    monkeypatch.setattr(SOURCES, "plugin", lambda name: loading.Plugin(before.name, before.reference, "changed"))
    assert same != source_fingerprint(source, tmp_path)


# --- Modules and packages ---


def test_a_module_is_named_as_it_is_imported_and_a_package_is_all_of_its_files(tmp_path, monkeypatch):
    package = tmp_path / "acme_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("from acme_tasks import hinge\n")
    (package / "hinge.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    recipe, _ = load_recipe(write(tmp_path), ["plugins=[acme_tasks]"])
    before = plugin_digests(recipe)
    assert recipe.plugins == ("acme_tasks",) and list(before) == ["acme_tasks"] and "hinge" in kinds()
    (package / "hinge.py").write_text(PLUGIN + "# changed\n")
    assert "acme_tasks has changed" in refused(write(tmp_path), "plugins=[acme_tasks]")
    for name in ("acme_tasks", "acme_tasks.hinge"):
        sys.modules.pop(name)


def test_a_module_that_breaks_deep_inside_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "acme_broken").mkdir()
    (tmp_path / "acme_broken" / "__init__.py").write_text("import acme_broken.deep\n")
    (tmp_path / "acme_broken" / "deep.py").write_text("\n1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = refused(write(tmp_path), "plugins=[acme_broken]")
    assert f"plugins: acme_broken: {tmp_path / 'acme_broken' / 'deep.py'}:2: ZeroDivisionError" in found


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that makes a package with an entry point of a module, as an installer leaves it."""
    site = tmp_path / "site"

    def install(module: str, code: str) -> None:
        information = site / f"{module}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}-for-jaxft\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[jaxft.plugins]\nanything = {module}\n")
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()

    yield install
    for module in ("acme_installed", "acme_unused"):
        sys.modules.pop(module, None)


def test_an_installed_package_needs_no_word_in_the_recipe(tmp_path, installed):
    installed("acme_installed", PLUGIN)
    installed("acme_unused", METRIC.format(name="unused"))
    recipe, _ = load_recipe(write(tmp_path, "", RECIPE.replace("plugins: [mine.py]\n", "")))
    assert recipe.plugins is None and recipe.streams["task"].objective.kind == "hinge"
    # What the run does not use may come and go.
    assert plugin_digests(recipe) == {"acme_installed": hashlib.sha256(PLUGIN.encode()).hexdigest()}
    assert load_recipe(tmp_path / "praise.yaml", ["plugins=[acme_installed]"])[0].plugins == ("acme_installed",)


def test_a_broken_installed_package_is_named(tmp_path, installed):
    installed("acme_installed", "1 / 0\n")
    found = refused(write(tmp_path))
    assert "plug-in acme_installed of the installed package acme_installed-for-jaxft: " in found
    assert "acme_installed.py:1: ZeroDivisionError" in found


def test_an_installed_architecture_is_found_without_a_recipe(installed, monkeypatch):
    config = HuggingFaceConfig({"model_type": "acme-bert"}, "config.json")
    with pytest.raises(CheckpointError, match="model_type 'acme-bert' is not one of those known"):
        architecture_of(config)
    monkeypatch.setattr(loading._state, "installed", False)
    before = architectures()
    installed(
        "acme_installed",
        "import dataclasses\nfrom jaxft import plugins\nfrom jaxft.huggingface.architectures.bert import ARCHITECTURE\n"
        'plugins.architecture(dataclasses.replace(ARCHITECTURE, model_types=("acme-bert", "acme-bert-2")))\n',
    )
    assert architecture_of(config).model_types == ("acme-bert", "acme-bert-2")
    assert architectures()[:-1] == before and architectures()[-1] is architecture_of(config)


def test_importing_jaxft_looks_for_no_plugins():
    words = "import sys, jaxft; sys.exit(bool({'jaxft.extension', 'jaxft.plugins'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


# --- Where its code runs ---


def test_other_processes_load_the_plugin_before_they_need_it(tmp_path):
    recipe, _ = load_recipe(write(tmp_path))
    source = recipe.streams["task"].source[0].added
    with mapped_in_order(source.__class__, workers=1, ahead=1) as made:
        assert next(made([7])) == type(source)(count=7)
    (tmp_path / "mine.py").write_text(PLUGIN + "# changed\n")
    with pytest.raises(RecipeError, match=r"mine\.py has changed"), mapped_in_order(len, workers=1, ahead=1):
        pass


def test_a_launch_says_that_its_file_must_be_on_the_machines(tmp_path):
    _, planned = plan_launch("slurm", write(tmp_path), (), LaunchOptions(topology="h100-8"))
    assert planned.advice[-1].startswith(f"plug-in {tmp_path / 'mine.py'} is not sent along")
    assert yaml.safe_load(planned.files["recipe.yaml"])["plugins"] == [str(tmp_path / "mine.py")]


def test_its_rows_are_planned_and_shown(tmp_path):
    path = write(tmp_path)
    blueprint = make_blueprint(*load_recipe(path), abstract_mesh(MeshConfig(), 4))
    assert blueprint.batches["task"]["sign"].shape == (16,)
    shown = rows_text(show_data(path, rows=1), colour=False)
    assert shown.startswith("task, row 0\n  input: ") and "f i l m" in shown.replace("Ġ", "")


@pytest.mark.slow
def test_the_example_of_the_documentation_learns(tmp_path):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    (plugin,), (recipe,) = (re.findall(f"```{language}\n(.*?)```", page, re.DOTALL) for language in ("python", "yaml"))
    (tmp_path / "tickets.py").write_text(plugin)
    (tmp_path / "tickets.yaml").write_text(recipe)
    with contextlib.closing(sqlite3.connect(tmp_path / "tickets.db")) as database:
        database.execute("create table tickets (text, label, day)")
        words = ("app", "bug"), ("bill", "money")
        tickets = [(f"the {word} of day {day}", label, day) for day in range(100) for word, label in [words[day % 2]]]
        database.executemany("insert into tickets values (?, ?, ?)", tickets)
        database.commit()
    small = ["model.embed_dim=32", "model.num_heads=2", "model.mlp_dim=64", "model.num_layers=1"]
    words = [*small, "training.epochs=16", "optimizer.learning_rate=1e-2", f"data.cache={tmp_path / 'cache'}"]
    held = train(tmp_path / "tickets.yaml", words, tmp_path / "run", quiet=True)["evaluation"]["held"]
    assert held["accuracy"] >= held["worst_recall"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_learns_what_a_plugin_teaches_by_its_own_metric(tmp_path, workers):
    summary = train(write(tmp_path), [f"data.workers={workers}"], tmp_path / "run", quiet=True)
    held = summary["evaluation"]["held"]
    assert set(held) == {"accuracy", "mean_margin"} and held["accuracy"] > 0.9 and held["mean_margin"] > 0.5
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["plugins"] == [str(tmp_path / "mine.py")] and written["optimizer"]["name"] == "signs"
