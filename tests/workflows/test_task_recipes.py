"""The recipes of tasks whose rows are made out of others: their own lines of Python make them, and both ways learn the
same."""

from __future__ import annotations

import json
import textwrap

import pytest

from jaxft.cli.main import run
from jaxft.recipe.library import load_recipe, path_of

# Those whose rows are real ones with other columns, and what a row must have.
MADE = {
    "positions": {"text", "position"},
    "mentions": {"text", "labels"},
    "continuations": {"text", "choices", "label"},
    "triplets": {"text", "near", "far"},
    "translation": {"en", "zh"},
}
PAIRS = [*MADE, "embeddings", "preferences", "turned-digits"]
BERT = "model={preset: bert-base, embed_dim: 16, num_heads: 2, mlp_dim: 16, num_layers: 1, max_length: 128}"
T5 = "model={preset: encoder-decoder-tiny, embed_dim: 16, num_heads: 2, mlp_dim: 16, max_length: 64}"


def python_of(name: str) -> str:
    """The lines of Python in a recipe's comment."""
    lines = path_of(f"finetune/{name}").read_text(encoding="utf-8").splitlines()
    return textwrap.dedent("\n".join(line.removeprefix("#") for line in lines if line.startswith("#   ")))


@pytest.fixture(scope="module")
def made(shared_data, tmp_path_factory):
    """A directory of data in which the lines of all recipes have been run."""
    directory = tmp_path_factory.mktemp("data")
    for part in shared_data.iterdir():
        (directory / part.name).symlink_to(part)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name in MADE:
            exec(python_of(name), {})
    return directory


@pytest.mark.parametrize("task", PAIRS)
def test_both_ways_learn_the_same_and_can_be_read_aloud(task):
    ways = {}
    for way in ("finetune", "bidirectional"):
        ways[way], _ = load_recipe(f"{way}/{task}")
        assert ways[way].name == f"{task}-{way.replace('finetune', 'one-way')}"
        assert len(path_of(f"{way}/{task}").read_text(encoding="utf-8").splitlines()) <= 40
    one_way, both = ways["finetune"], ways["bidirectional"]
    (first,) = one_way.streams
    assert len(both.streams) == 2 and one_way.streams[first] == both.streams[first]
    assert (one_way.training, one_way.optimizer, one_way.model) == (both.training, both.optimizer, both.model)


@pytest.mark.parametrize("task", MADE)
def test_the_lines_of_a_recipe_make_rows_that_it_can_use(task, made, tmp_path, capsys, monkeypatch):
    with (made / f"{task}_train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) > 1000 and all(set(row) == MADE[task] for row in rows)
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    model = [BERT, "tokenizer.wordpiece={}"]
    if task == "translation":
        model = [T5, "tokenizer={train: {vocab_size: 2000, sentinels: 20}}"]
    words = [*model, f"data.directory={made}", "streams.task.source.limit=300", "evaluation={}", "checkpoint={}"]
    words += ["streams.replay.source=[{text: few.txt}]"]
    (made / "few.txt").write_text("A few words.\n\n" * 900, encoding="utf-8")
    assert run(["train", f"bidirectional/{task}", "--dry-run", "--json", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] >= 9 and set(plan["batches"]) == {"task", "replay"}
