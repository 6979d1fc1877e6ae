"""What the pages show is so: Python runs, recipes decode, commands parse, and what is named is there."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import pathlib
import pkgutil
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from typing import Any

import numpy as np
import pytest
import torch
from checks import WrongDocumentation, check_command, check_recipe, look_up, wrong_codes, wrong_links
from huggingface import reference_models
from huggingface.reference_models import CASES
from pages import PAGES, ROOT, Block, Page, commands, read_page
from safetensors.numpy import load_file
from support import tiny_models
from support.plugged import forget_plugins

import jaxft
from jaxft.cli.main import run
from jaxft.errors import RecipeError
from jaxft.huggingface.architectures import olmo2
from jaxft.models.config import ModelConfig
from jaxft.recipe.reading import Document, override, parse_document

READ = [read_page(path) for path in PAGES]
SHELLS = ("sh", "console")
LANGUAGES = {*SHELLS, "python", "yaml", "toml", "diff", "text"}
TINY = """
name: tiny
model: {preset: encoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 32, num_layers: 1, max_length: 32}
tokenizer: {byte_bpe: {vocab_size: 300}}
streams: {text: {source: {text: text.txt}, objective: {kind: masked_lm}, batch_size: 4}}
evaluation: {same: {stream: text, source: {text: text.txt}}}
training: {steps: 4, log_every: 2}
"""
SEED_OSS = dataclasses.replace(CASES["llama"], model="SeedOssForCausalLM", config="SeedOssConfig")


def places_for(page: str, directory: pathlib.Path) -> dict[str, Any]:
    """Makes the models that a page's Python reads, below the directory; the names that it begins with."""
    match page:
        case "README.md":
            tiny_models.bert(directory / "path/to/model", "BertForMaskedLM")
            shutil.copy(ROOT / "LICENSE", directory / "text.txt")
            (directory / "recipe.yaml").write_text(TINY)
            return {"input_ids": np.array([[2, 5, 7, 3]]), "mask": np.array([[1, 1, 1, 1]])}
        case "generation.md":
            for run_directory in ("runs/story", "runs/linker"):
                tiny_models.llama(directory / run_directory)
        case "serving.md":
            tiny_models.bert(directory / "path/to/classifier", "BertForSequenceClassification")
            tiny_models.bert(directory / "path/to/bert", "BertForMaskedLM")
            tiny_models.bert(directory / "path/to/sentence-encoder", "BertModel")
            tiny_models.llama(directory / "runs/story")
        case "plugins.md":
            with contextlib.closing(sqlite3.connect(directory / "tickets.db")) as database, database:
                database.execute("create table tickets (day integer, text text, label text)")
                rows = [(day, f"the {('printer', 'screen')[day % 2]} is dark", "ab"[day % 2]) for day in range(96)]
                database.executemany("insert into tickets values (?, ?, ?)", rows)
        case "CONTRIBUTING.md":
            texts = [path.read_text(encoding="utf-8").replace("\n## ", "\n# ") for path in PAGES]
            (directory / "notes.md").write_text("\n".join([*texts, "# Nothing", ""]), encoding="utf-8")
            reference_models.save(reference_models.make(SEED_OSS), directory / "path/to/seed-oss")
            return {"input_ids": reference_models.inputs_of(SEED_OSS)["input_ids"]}
    return {}


@pytest.fixture(scope="module")
def base() -> Document:
    """The recipe of the first page, with evaluations for what other pages compare."""
    recipe = next(block for block in READ[0].blocks if block.language == "yaml")
    others = ("dev", "test", "grammar")
    words = [f"evaluation.{name}={{stream: task, source: {{jsonl: {name}.jsonl}}}}" for name in others]
    return override(parse_document(recipe.text, recipe.place), words)


def write_files(page: Page) -> None:
    """Writes the files that a page shows, into the working directory."""
    for block in page.blocks:
        if block.file:
            pathlib.Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(block.file).write_text(block.text)


def walk(page: Page, names: dict[str, Any]) -> None:
    """Follows a page from its top to its end, in the working directory."""
    write_files(page)
    for block in page.blocks:
        if block.file:
            continue
        if block.language == "diff":
            patch(block)
        elif block.language == "python" and block.reason:
            look_up(block.text, block.place, names)
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
        elif block.runs:
            for words in commands(block):
                assert started(words) == 0, f"{block.place}: jaxft {' '.join(words)}"


def patch(block: Block) -> None:
    """Changes a copy of the package, in the working directory, as a diff says."""
    if not pathlib.Path("jaxft/__init__.py").exists():
        for part in ("jaxft", "configs", "launch"):
            shutil.copytree(ROOT / part, part, dirs_exist_ok=True)
    done = subprocess.run(["git", "apply", "-"], input=block.text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{block.place}: {done.stderr}"


def started(words: list[str]) -> int:
    """The status of a command: of this package, or of the copy that a page has changed."""
    if not pathlib.Path("jaxft/__init__.py").exists():
        return run(words)
    # The working directory, and so the copy, is what Python finds first.
    own = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run([sys.executable, "-m", "jaxft", *words], env=own, check=False).returncode


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    """What plug-ins of a page add is gone after the test, and the modules that it wrote."""
    forget_plugins(monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


# Pages that train, or write with models.
SLOW = ("generation.md", "serving.md", "plugins.md", "CONTRIBUTING.md")
FOLLOWED = [pytest.param(page, marks=[pytest.mark.slow] if page.path.name in SLOW else []) for page in READ]


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.path.name)
def test_python_runs_from_the_top_of_a_page_to_its_end(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk(page, places_for(page.path.name, tmp_path))


RECIPES = [(page, block) for page in READ for block in page.blocks if block.language == "yaml"]
COMMANDS = [block for page in READ for block in page.blocks if block.language in SHELLS and not block.runs]


@pytest.mark.parametrize(("page", "block"), RECIPES, ids=[block.place for _, block in RECIPES])
def test_recipes_decode(page, block, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(page)
    check_recipe(block, base)


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.place)
def test_commands_are_parsed(block):
    for words in commands(block):
        check_command(words, block.place)


@pytest.mark.parametrize("page", READ, ids=lambda page: page.path.name)
def test_what_is_named_is_there(page):
    assert list(wrong_codes(page)) == []
    assert list(wrong_links(page)) == []


@pytest.mark.parametrize("page", READ, ids=lambda page: page.path.name)
def test_every_block_says_what_it_is(page):
    """A block in no language that is known here, or a command that is only indented, nothing would check."""
    assert [block.place for block in page.blocks if block.language not in LANGUAGES] == []
    assert all(tomllib.loads(block.text) for block in page.blocks if block.language == "toml")
    assert [line for line in page.prose.splitlines() if line.startswith(("    jaxft ", "    $ jaxft "))] == []
    # A comment that is not in the line before its block would say nothing.
    assert "<!--" not in page.prose.replace(" -->\n\n\n", "")


def test_the_worked_example_of_an_architecture_is_the_real_one():
    """OLMo 2's file, in parts."""
    (page,) = (page for page in READ if page.path.name == "architectures.md")
    names: dict[str, Any] = {}
    for block in page.blocks:
        exec(compile(block.text, block.place, "exec"), names)
    for field in ("model_types", "prefix", "keys", "fixed", "less", "ignored", "tied"):
        assert getattr(names["ARCHITECTURE"], field) == getattr(olmo2.ARCHITECTURE, field), field
    assert names["ARCHITECTURE"].trunk(ModelConfig()) == olmo2.ARCHITECTURE.trunk(ModelConfig())


# What a page may say wrongly. First what is found when it is followed or read, then what is found in its lines.
WRONG_BLOCKS = {
    "a name": ("```python\nimport jaxft\njaxft.juggle\n```", AttributeError, "has no attribute 'juggle'"),
    "two tuples": ("```python\nkeys = ({},)\nfixed = keys | {}\n```", TypeError, "unsupported operand"),
    "an import that is not run": (
        "<!-- not run: it takes long -->\n```python\nfrom jaxft.workflows import exported\n```",
        ImportError,
        "cannot import name 'exported'",
    ),
    "an attribute that is not run": (
        "<!-- not run: it takes long -->\n```python\nimport jaxft\nprint(jaxft.juggle)\n```",
        WrongDocumentation,
        "jaxft.juggle: there is no juggle",
    ),
    "an argument that is not run": (
        "<!-- not run: it takes long -->\n```python\nimport jaxft\njaxft.plan('recipe.yaml', topolgy='v5e-8')\n```",
        WrongDocumentation,
        "missing a required argument: 'topology'",
    ),
    "a command that is run": ("<!-- run -->\n```sh\njaxft recipes show nowhere\n```", AssertionError, "show nowhere"),
    "a key of a recipe": ("```yaml\ntraining: {stepz: 3}\n```", RecipeError, "unknown key; did you mean steps?"),
    "a key of a stream": ("```yaml\nobjective: {kind: masked_lm, maskd: 1}\n```", RecipeError, "did you mean masked?"),
    "a stream": ("```yaml\nreplay: {source: {txt: a.txt}}\n```", RecipeError, "unknown key; did you mean text?"),
    "a comparison": (
        "```yaml\ncompare: {task: none.f1, retained: retained.loss}\n```",
        RecipeError,
        "'none.f1' is not",
    ),
    "an option": (
        "```sh\necho a | jaxft chat a --temprature 1\n```",
        WrongDocumentation,
        "the command line refuses",
    ),
    "a verb": ("```console\n$ jaxft juggle a.yaml\nprinted\n```", WrongDocumentation, "the command line refuses"),
    "an override": ("```sh\njaxft train finetune/reviews trainin.steps=3\n```", RecipeError, "did you mean training?"),
}
WRONG_LINES = [
    ("`jaxft juggle RECIPE`", "no verb juggle"),
    ("`jaxft data look RECIPE`", "no verb data look"),
    ("`jaxft[parket]`", "no such extra"),
    ("`jaxft/workflows/exported.py`", "no such file"),
    ("`jaxft.workflows.exported`", "no attribute 'exported'"),
    ("`python tests/benchmarks/nothing.py`", "no such file"),
    ("`python tests/benchmarks/loader.py --wrokers 2`", "has no --wrokers"),
    ("`data.bad_rows.polcy=skip`", "no recipe takes this"),
    ("`augmentation: {delete: 0.1, swop: 0.1}`", "no section of a recipe takes this"),
    ("[data](nothing.md)", "no such file"),
    ("[data](#nothing)", "no such heading"),
]


@pytest.mark.parametrize("kind", WRONG_BLOCKS)
def test_a_wrong_block_is_found(kind, tmp_path, monkeypatch, base):
    text, error, told = WRONG_BLOCKS[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}\n")
    page = read_page(tmp_path / "page.md")
    with pytest.raises(error, match=re.escape(told)):
        walk(page, {})
        for block in page.blocks:
            if block.language == "yaml":
                check_recipe(block, base)
            for words in commands(block):
                check_command(words, block.place)


@pytest.mark.parametrize(("text", "told"), WRONG_LINES)
def test_a_wrong_line_is_found(text, told, tmp_path):
    (tmp_path / "page.md").write_text(f"# Page\n\nSee {text}.\n")
    page = read_page(tmp_path / "page.md")
    (line,) = [*wrong_codes(page), *wrong_links(page)]
    assert told in line


def test_the_architecture_that_is_added_is_that_of_torch(tmp_path, monkeypatch):
    """As `tests/huggingface/test_parity.py` has it of ours, in values."""
    monkeypatch.chdir(tmp_path)
    (page,) = (page for page in READ if page.path.name == "CONTRIBUTING.md")
    write_files(page)
    importlib.import_module("seed_oss")
    theirs = reference_models.make(SEED_OSS)
    reference_models.save(theirs, tmp_path / "model")
    inputs = reference_models.inputs_of(SEED_OSS)
    with torch.no_grad():
        wanted = theirs(**{name: torch.tensor(value) for name, value in inputs.items()}).logits.numpy()
    ours = jaxft.load_pretrained(tmp_path / "model")
    seen = inputs["attention_mask"] > 0
    found = np.asarray(ours(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits)
    np.testing.assert_allclose(found[seen], wanted[seen], atol=1e-4)
    jaxft.save_pretrained(ours, tmp_path / "copy")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "copy"))
    assert before.keys() == after.keys() and all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_what_has_moved_is_where_the_changelog_says():
    _, _, rest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Moved")
    rows = re.findall(r"^\| (`.+) \| (`.+) \|$", rest.partition("###")[0], re.MULTILINE)
    places = [name for _, now in rows for name in re.findall(r"`([\w.]+)`", now) if name != "Objective.shown"]
    assert len(places) > 50
    for place in places:
        pkgutil.resolve_name(place if place.startswith("jaxft.") else f"jaxft.workflows.{place}")
