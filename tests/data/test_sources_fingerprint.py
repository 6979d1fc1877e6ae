"""Fingerprints: they follow what is read and how, not where it lies, and large files are hashed once."""

from __future__ import annotations

import gzip
import os
import time

import fsspec
import numpy as np
import pytest
from made_sources import prepare_tfds, write_hf, write_jsonl, write_parquet
from PIL import Image

from jaxft.data.sources import SourceConfig, fingerprint, source_fingerprint
from jaxft.errors import RecipeError

ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(20)]


def of(directory, **options) -> str:
    return source_fingerprint(SourceConfig(**options), directory)


def test_every_option_counts(tmp_path):
    (tmp_path / "r.txt").write_text("one\n")
    options = [
        {"text": ("r.txt",)},
        {"jsonl": ("r.txt",)},
        {"csv": ("r.txt",)},
        {"parquet": ("r.txt",)},
        {"text": ("r.txt",), "documents": "lines"},
        {"text": ("r.txt",), "limit": 1},
        {"text": ("r.txt",), "limit": 2},
        {"text": ("r.txt",), "shuffle": 0},
        {"text": ("r.txt",), "shuffle": 1},
        {"text": ("r.txt",), "columns": {"a": "text"}},
        {"text": ("r.txt",), "columns": {"text": "a"}},
        {"text": ("r.txt",), "filter": {"text": "a"}},
        {"text": ("r.txt",), "filter": {"text": ("a", "b")}},
        {"text": ("r.txt",), "filter": {"text": 1}},
        {"text": ("r.txt",), "filter": {"text": "1"}},
        {"text": ("r.txt",), "filter": {"text": True}},
    ]
    assert len({of(tmp_path, **one) for one in options}) == len(options)


def test_the_order_of_keys_does_not_count(tmp_path):
    (tmp_path / "r.txt").write_text("one\n")
    same = {
        of(tmp_path, text=("r.txt",), columns=columns, filter={"a": 1})
        for columns in ({"a": "text", "b": "text"}, {"b": "text", "a": "text"})
    }
    assert len(same) == 1


def test_files_count_by_content_and_compression(tmp_path):
    memory = fsspec.filesystem("memory")
    for name, content in (("a.jsonl", b"{}"), ("b/c.jsonl", b"{}"), ("d.jsonl", b"[]"), ("e.gz", gzip.compress(b"{}"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        memory.pipe(f"/fingerprints/{name}", content)
    first = of(tmp_path, jsonl=("a.jsonl",))
    assert first == of(tmp_path, jsonl=("b/c.jsonl",)) == of(tmp_path / "b", jsonl=("c.jsonl",))
    assert first == of(tmp_path, jsonl=("memory://fingerprints/a.jsonl",))
    (tmp_path / "e").write_bytes((tmp_path / "e.gz").read_bytes())
    names = ("a.jsonl", "d.jsonl", "e.gz", "e")
    assert len({of(tmp_path, jsonl=(name,)) for name in names}) == len(names)
    memory.rm("/fingerprints", recursive=True)


def test_folders_of_images_count_by_their_labels_and_images(tmp_path):
    def folder(name: str, places: dict[str, int]) -> str:
        for place, grey in places.items():
            path = tmp_path / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), grey).save(path)
        return of(tmp_path, images=(name,))

    first = folder("a", {"cat/1.png": 1, "dog/2.png": 2})
    assert first == folder("b", {"dog/2.png": 2, "cat/1.png": 1})
    (tmp_path / "b" / "cat" / ".hidden").touch()
    assert first == of(tmp_path, images=("b",))
    others = [{"cat/1.png": 1}, {"cat/1.png": 1, "dog/2.png": 3}, {"cat/1.png": 1, "cat/2.png": 2}]
    found = {folder(f"c{i}", places) for i, places in enumerate(others)}
    assert len(found | {first}) == 4


def test_datasets_of_libraries_count_by_their_own_fingerprint(tmp_path, monkeypatch):
    library = pytest.importorskip("tensorflow_datasets")
    for name, rows in (("a/rows", ROWS), ("b/rows", ROWS), ("c/rows", ROWS[:-1])):
        write_hf(tmp_path / "hf" / name, rows)
    hf = [of(tmp_path / "hf" / part, hf="rows") for part in "abc"]
    assert hf[0] == hf[1] != hf[2]
    write_hf(tmp_path / "hf" / "d", [{**row, "text": row["text"].upper()} for row in ROWS])
    assert of(tmp_path, hf="hf/d") != hf[0] != of(tmp_path, hf="hf/a/rows", limit=3)
    features = library.features.FeaturesDict({"text": library.features.Text(), "label": np.int32})
    found = []
    for part, rows in (("a", ROWS), ("b", ROWS), ("c", ROWS[:-1])):
        prepare_tfds(tmp_path / "tfds" / part, {"train": rows, "test": ROWS[:3]}, features, "rows")
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds" / part))
        found += [of(tmp_path, tfds="rows", split=split) for split in ("train", "train[:3]")]
    assert found[:2] == found[2:4] and len(set(found)) == 4


# The cache of digests.


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The names of the files that are read; files count as settled at once."""
    names = []
    open_file = fingerprint.open_file
    monkeypatch.setattr(fingerprint, "open_file", lambda file, name: names.append(name) or open_file(file, name))
    monkeypatch.setattr(fingerprint, "_SETTLED_SECONDS", 0)
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    return names


def large(path, character: bytes = b"x") -> None:
    path.write_bytes(character * 2 * 2**20)
    # Kernels count the time in ticks.
    time.sleep(0.02)


def test_a_large_file_is_hashed_once(tmp_path, reads):
    large(tmp_path / "r.txt")
    first = of(tmp_path, text=("r.txt",))
    assert of(tmp_path, text=("r.txt",)) == first and reads == ["r.txt"]
    assert of(tmp_path, text=("r.txt",), limit=3) != first and reads == ["r.txt"]
    (tmp_path / "small.txt").write_text("x")
    assert of(tmp_path, text=("small.txt",)) == of(tmp_path, text=("small.txt",))
    assert reads == ["r.txt", "small.txt", "small.txt"]


def test_a_changed_file_is_hashed_again(tmp_path, reads):
    large(tmp_path / "r.txt")
    status = (tmp_path / "r.txt").stat()
    first = of(tmp_path, text=("r.txt",))
    large(tmp_path / "r.txt", b"y")
    # As copying tools do that keep times.
    os.utime(tmp_path / "r.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    time.sleep(0.02)
    second = of(tmp_path, text=("r.txt",))
    large(tmp_path / "r.txt")
    assert of(tmp_path, text=("r.txt",)) == first != second
    assert reads == ["r.txt"] * 3
    (tmp_path / "other.txt").write_bytes((tmp_path / "r.txt").read_bytes())
    assert of(tmp_path, text=("other.txt",)) == first and reads[3:] == ["other.txt"]


def test_files_of_one_size_and_time_are_told_apart(tmp_path, reads):
    large(tmp_path / "r.txt")
    (tmp_path / "other.txt").hardlink_to(tmp_path / "r.txt")
    time.sleep(0.02)
    assert of(tmp_path, text=("r.txt",)) == of(tmp_path, text=("other.txt",)) and reads == ["r.txt", "other.txt"]


def test_a_file_that_was_just_written_is_hashed_again(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(fingerprint, "_SETTLED_SECONDS", 2)
    large(tmp_path / "r.txt")
    assert of(tmp_path, text=("r.txt",)) == of(tmp_path, text=("r.txt",)) and reads == ["r.txt"] * 2


@pytest.mark.parametrize("damage", [b"", b"no digest", b"abcd"])
def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path, reads, damage):
    large(tmp_path / "r.txt")
    first = of(tmp_path, text=("r.txt",))
    (digest,) = (tmp_path / "cache" / "digests").iterdir()
    digest.write_bytes(damage)
    assert of(tmp_path, text=("r.txt",)) == first and len(reads) == 2
    digest.unlink()
    digest.parent.rmdir()
    digest.parent.write_text("in the way")
    assert of(tmp_path, text=("r.txt",)) == first and len(reads) == 3


def test_a_folder_of_images_is_hashed_once(tmp_path, reads):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    for i in range(3):
        Image.new("L", (2, 2), i).save(tmp_path / "pets" / "cat" / f"{i}.png")
    time.sleep(0.02)
    first = of(tmp_path, images=("pets",))
    assert of(tmp_path, images=("pets",)) == first and len(reads) == 3
    Image.new("L", (2, 2), 9).save(tmp_path / "pets" / "cat" / "1.png")
    time.sleep(0.02)
    assert of(tmp_path, images=("pets",)) != first and len(reads) == 6
    (tmp_path / "pets" / "cat" / "1.png").rename(tmp_path / "pets" / "cat" / "7.png")
    time.sleep(0.02)
    assert len({first, of(tmp_path, images=("pets",))}) == 2 and len(reads) == 9


def test_a_missing_file_has_no_fingerprint(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", ROWS)
    write_parquet(tmp_path / "r.parquet", ROWS)
    for options in ({"jsonl": ("s.jsonl",)}, {"parquet": ("s.parquet",)}, {"images": ("s",)}, {"hf": "s"}):
        with pytest.raises(RecipeError):
            of(tmp_path, **options)
