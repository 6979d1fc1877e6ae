"""The embedded corpus: real text, rightly labelled, split without a leak, cached without a surprise."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from jaxft.data import embedded
from jaxft.data.cache import cache_directory
from jaxft.errors import DataError

SPLITS = [(corpus, split) for corpus in ("documentation", "packages") for split in ("train", "heldout")]


def normalize(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="session")
def rows(cache):
    """The rows of this Python's own library, by corpus and split."""
    return {(corpus, split): list(embedded.embedded_rows(corpus, split, cache)) for corpus, split in SPLITS}


def write_library(directory: Path, modules: dict[str, str]) -> Path:
    for name, source in modules.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return directory


def leaks(rows: dict) -> list[str]:
    """Held-out paragraphs, of either corpus, of at least 40 characters that stand in a training text of either."""
    training = "\n".join(normalize(row["text"]) for key, part in rows.items() if key[1] == "train" for row in part)
    heldout = [row["text"] for key, part in rows.items() if key[1] == "heldout" for row in part]
    paragraphs = {normalize(part) for text in heldout for part in re.split(r"\n\s*\n", text)}
    return [part for part in paragraphs if len(part) >= 40 and part in training]


def by_split(extracted: list[embedded.EmbeddedRow]) -> dict:
    return {key: [row.values for row in extracted if (row.corpus, row.split) == key] for key in SPLITS}


@pytest.mark.slow
def test_nothing_held_out_stands_in_training_text(rows):
    assert leaks(rows) == []


def test_texts_that_quote_one_another_stay_on_one_side(tmp_path):
    modules = {}
    for i in range(60):
        quoted = f"The quick brown fox number {i} jumps over the lazy dog and is not seen again."
        modules[f"alone{i}.py"] = f'"""{quoted}"""\n'
        modules[f"logging/inside{i}.py"] = f'"""An introduction that differs.\n\n{quoted}\n\nAn end."""\n'
        modules[f"xml/midword{i}.py"] = f'"""Pre{quoted}post, by a text of quite another kind."""\n'
    extracted = by_split(embedded.extract_rows(write_library(tmp_path, modules)))
    assert all(extracted.values()), "each part of each corpus must hold rows for this test to mean anything"
    assert leaks(extracted) == []


def test_equal_docstrings_of_different_modules_stay_together(tmp_path):
    modules = {f"m{i}.py": f'"""A docstring that stands twice, with the number {i // 2} in it."""' for i in range(200)}
    extracted = by_split(embedded.extract_rows(write_library(tmp_path, modules)))
    assert extracted["documentation", "heldout"]
    assert leaks(extracted) == []


def test_texts_that_quote_one_another_at_great_length_are_trained_on(tmp_path):
    modules = {
        f"m{i}.py": f'"""Quoted at great length by the third text of number {i // 3}.\n\nOf {i}: {"words " * 1500}"""'
        for i in range(150)
    }
    extracted = by_split(embedded.extract_rows(write_library(tmp_path, modules)))
    assert len(extracted["documentation", "train"]) == 150


@pytest.mark.slow
def test_sizes_and_shares_of_the_real_corpora(rows):
    characters = {key: sum(len(row["text"]) for row in part) for key, part in rows.items()}
    documentation = characters["documentation", "train"] + characters["documentation", "heldout"]
    assert documentation > 1_000_000
    assert 0.06 < characters["documentation", "heldout"] / documentation < 0.18
    count = {split: len(rows["packages", split]) for split in ("train", "heldout")}
    assert sum(count.values()) > 1500
    assert 0.15 < count["heldout"] / sum(count.values()) < 0.25


@pytest.mark.slow
def test_every_package_of_this_library_is_a_class_in_both_parts(rows):
    library = Path(sysconfig.get_paths()["stdlib"])
    expected = {package for package in embedded.PACKAGES if (library / package).is_dir()}
    for split in ("train", "heldout"):
        counts = Counter(row["package"] for row in rows["packages", split])
        assert set(counts) == expected
        assert min(counts.values()) >= 5


@pytest.mark.slow
def test_labels_agree_with_the_imported_modules(rows):
    label_of = {row["text"]: row["package"] for split in ("train", "heldout") for row in rows["packages", split]}
    for package, documented in (("logging", logging.Logger), ("asyncio", asyncio.run), ("logging", logging.Formatter)):
        assert label_of[normalize(documented.__doc__)] == package


@pytest.mark.slow
def test_package_texts_are_distinct_normalized_and_long_enough(rows):
    texts = [row["text"] for split in ("train", "heldout") for row in rows["packages", split]]
    assert len(set(texts)) == len(texts)
    assert all(text == normalize(text) and len(text) >= 40 for text in texts)


@pytest.mark.slow
def test_topics_of_help_are_in_the_documentation(rows):
    topics = {row["module"] for split in ("train", "heldout") for row in rows["documentation", split]}
    assert {"topics.assignment", "topics.lambda", "topics.while"} <= topics


@pytest.mark.slow
def test_all_is_both_parts(rows, cache):
    assert list(embedded.embedded_rows("packages", "all", cache)) == (
        rows["packages", "train"] + rows["packages", "heldout"]
    )


def test_docstrings_in_source_order_without_running_or_keeping_what_is_no_text(tmp_path):
    library = write_library(
        tmp_path,
        {
            "module.py": '"""First."""\nraise SystemExit("imported")\n'
            'class A:\n    """Second."""\n    async def f(self):\n        """Third."""\ndef g():\n    """Fourth."""\n',
            "package/__init__.py": '"""Of the package."""',
            "package/part.py": '"""Of its part."""',
            "broken.py": '"""Never seen."""\ndef (',
            "surrogate.py": '"""Lone \\ud800 half."""',
            "test/test_module.py": '"""Of a test."""',
            "site-packages/other.py": '"""Of someone else."""',
        },
    )
    rows = embedded.extract_rows(library)
    assert [(row.values["module"], row.values["text"]) for row in rows] == [
        ("module", "First.\n\nSecond.\n\nThird.\n\nFourth."),
        ("package", "Of the package."),
        ("package.part", "Of its part."),
    ]


def test_a_text_of_two_packages_has_no_label(tmp_path):
    shared = '"""A docstring that two packages share, which has no right label."""'
    alone = '"""A docstring that only one of all the packages holds."""'
    library = write_library(tmp_path, {"xml/a.py": shared, "http/a.py": shared, "http/b.py": alone, "http/c.py": alone})
    packages = [row.values for row in embedded.extract_rows(library) if row.corpus == "packages"]
    assert packages == [{"text": alone.strip('"'), "package": "http"}]


def test_the_split_does_not_depend_on_the_process(tmp_path):
    modules = {f"http/m{i}.py": f'"""A docstring long enough for a row, the one of number {i}."""' for i in range(50)}
    library = write_library(tmp_path, modules)
    program = "import sys, pathlib, jaxft.data.embedded as e; print(e.extract_rows(pathlib.Path(sys.argv[1])))"
    environment = {**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[2])}
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, str(library)],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(outputs) == 1


def test_a_library_without_sources_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no Python sources"):
        embedded.extract_rows(tmp_path)


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    library = write_library(tmp_path / "library", {"http/a.py": '"""One docstring that is long enough for a row."""'})
    monkeypatch.setattr(embedded.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    return library


def packages(cache: Path | None) -> list[str]:
    return [row["text"] for row in embedded.embedded_rows("packages", "all", cache)]


def test_the_second_reading_comes_from_the_cache(small_library, tmp_path, monkeypatch):
    first = packages(tmp_path / "cache")
    monkeypatch.setattr(embedded, "extract_rows", lambda library: pytest.fail("extracted again"))
    assert packages(tmp_path / "cache") == first


def test_a_damaged_cache_is_made_anew(small_library, tmp_path):
    first = packages(tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (whole.replace(b"long enough", b"long enougH"), whole[:-20], b""):
        file.write_bytes(damaged)
        assert packages(tmp_path / "cache") == first
    assert file.read_bytes() == whole


def test_a_changed_library_is_not_read_from_the_old_cache(small_library, tmp_path):
    packages(tmp_path / "cache")
    write_library(small_library, {"http/b.py": '"""Another docstring that came with an update of Python."""'})
    assert len(packages(tmp_path / "cache")) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(small_library, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert packages(tmp_path / "file" / "cache") == packages(None) != []


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("JAXFT_CACHE")
    assert cache_directory() == Path.home() / ".cache" / "jaxft"
