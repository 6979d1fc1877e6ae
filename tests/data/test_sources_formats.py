"""Every format gives what its files hold: real data beside other readers of it, from this machine and behind URLs."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import sys

import fsspec
import numpy as np
import pytest
import zstandard
from made_sources import prepare_tfds, scan, write_hf, write_jsonl, write_parquet
from PIL import Image
from sklearn.datasets import load_digits
from transformers.image_utils import load_image

from jaxft.data.sources import SourceConfig, read_image, read_rows, resolve_paths, scan_rows, source_fingerprint
from jaxft.errors import DataError, RecipeError

ROWS = [{"text": f"text {i} é", "label": i % 3} for i in range(700)]


# CoNLL and SQuAD.


@pytest.mark.parametrize(("part", "count"), [("train", 3394), ("dev", 1009), ("test", 1287)])
def test_named_entities_of_wnut17(shared_data, part, count):
    rows = list(read_rows(SourceConfig(conll=(f"ner/wnut17_{part}.conll",)), shared_data))
    lines = (shared_data / f"ner/wnut17_{part}.conll").read_text(encoding="utf-8").split("\n")
    pairs = [line.split("\t") for line in lines if line.strip()]
    assert len(rows) == count
    assert [list(pair) for row in rows for pair in zip(row.values["tokens"], row.values["tags"], strict=True)] == pairs
    assert all(lines[int(row.location.partition(":")[2]) - 1].startswith(row.values["tokens"][0]) for row in rows)
    assert {tag[0] for row in rows for tag in row.values["tags"]} == set("BIO")


def test_conll_2003_with_four_columns_documents_and_comments(tmp_path):
    (tmp_path / "r.conll").write_text(
        "-DOCSTART- -X- -X- O\n\n# newdoc id = 7\nEU NNP  B-NP B-ORG\nrejects VBZ B-VP O\n\n\n"
        "-DOCSTART- -X- -X- O\n# text = Peter\n# id\nPeter NNP B-NP B-PER\r\n# : # O\n"
    )
    first, second = read_rows(SourceConfig(conll=("r.conll",)), tmp_path)
    assert first.values == {
        "tokens": ["EU", "rejects"],
        "tags": ["B-ORG", "O"],
        "column_2": ["NNP", "VBZ"],
        "column_3": ["B-NP", "B-VP"],
    }
    assert (first.location, second.location) == ("r.conll:4", "r.conll:11")
    assert second.values["tokens"] == ["Peter", "#"]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("# a b\tO\nNew York\tB-x\n\n#\tO\n\n# only a comment\n", [["# a b", "New York"], ["#"]]),
        ("# O\n1 O\n\n# sent\n# O\n# B-x\n\n# sent\nA O\n", [["#", "1"], ["#", "#"], ["A"]]),
        ("# one\tO\tO\nA\tO\n", [["A"]]),
        ("# a\tNOUN\nA\tVERB\n", [["# a", "A"]]),
    ],
)
def test_a_token_may_look_like_a_comment(tmp_path, content, tokens):
    (tmp_path / "r.conll").write_text(content)
    assert [row["tokens"] for row in scan(tmp_path, conll=("r.conll",))] == tokens


def test_a_file_of_comments_alone_is_empty(tmp_path):
    (tmp_path / "r.conll").write_text("# one\n\n-DOCSTART- O\n\n \t\n")
    with pytest.raises(DataError, match="empty"):
        scan(tmp_path, conll=("r.conll",))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_questions_of_xquad(shared_data, language):
    rows = list(read_rows(SourceConfig(squad=(f"qa/xquad_{language}.json",)), shared_data))
    document = json.loads((shared_data / f"qa/xquad_{language}.json").read_text(encoding="utf-8"))
    assert len(rows) == 1190
    expected = [
        (question["id"], article["title"], paragraph["context"], question["question"])
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    assert [tuple(row.values[key] for key in ("id", "title", "context", "question")) for row in rows] == expected
    for row in rows:
        assert row.values["answers"]
        for answer in row.values["answers"]:
            assert row.values["context"][answer["start"] :].startswith(answer["text"])
    assert rows[0].location == f"qa/xquad_{language}.json:data[0].paragraphs[0].qas[0]"


# Images and arrays.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_digits_as_arrays(tmp_path, save):
    digits = load_digits()
    save(tmp_path / "digits.npz", images=digits.images.astype(np.uint8), labels=digits.target)
    rows = list(read_rows(SourceConfig(arrays=("digits.npz",)), tmp_path))
    np.testing.assert_array_equal([row.values["image"] for row in rows], digits.images)
    assert [row.values["label"] for row in rows] == digits.target.tolist()
    assert rows[0].values["image"].dtype == np.uint8 and type(rows[0].values["label"]) is int
    assert rows[-1].location == f"digits.npz:{len(digits.target)}"


def test_arrays_of_floats_and_labels_of_text(tmp_path):
    images = np.random.default_rng(0).random((3, 2, 4, 1), np.float32)
    np.savez(tmp_path / "a.npz", images=images, labels=["a", "b", "ß"], more=[1])
    rows = list(read_rows(SourceConfig(arrays=("a.npz",)), tmp_path))
    np.testing.assert_array_equal([row.values["image"] for row in rows], images)
    assert [row.values["label"] for row in rows] == ["a", "b", "ß"]


def test_digits_as_a_folder_of_images(tmp_path):
    digits = load_digits()
    for i in range(60):
        path = tmp_path / "digits" / f"class {digits.target[i]}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(path)
    rows = list(read_rows(SourceConfig(images=("dig*",)), tmp_path))
    assert len(rows) == 60 and [row.location for row in rows] == sorted(row.location for row in rows)
    for row in rows:
        number = int(row.values["image"][-7:-4])
        assert row.values["label"] == f"class {digits.target[number]}"
        image = read_image(row.values["image"], row.location)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image[..., 0], digits.images[number] * 15)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 3), ("P", 3), ("L", 1), ("1", 1), ("CMYK", 3)])
def test_images_of_all_modes_become_grey_or_rgb(tmp_path, mode, channels):
    Image.new(mode, (5, 4)).save(tmp_path / "a.tiff")
    assert read_image(str(tmp_path / "a.tiff"), "a").shape == (4, 5, channels)


def test_a_folder_without_labels_is_empty_and_a_file_is_no_folder(tmp_path):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "a.png").touch()
    with pytest.raises(DataError, match="pets is empty: it has no subfolder"):
        scan(tmp_path, images=("pets",))
    with pytest.raises(RecipeError, match=r"is a file .* name a folder"):
        scan(tmp_path, images=("pets/a.png",))
    with pytest.raises(RecipeError, match=r"there is no folder 'pet'.*Did you mean 'pets'\?"):
        scan(tmp_path, images=("pet",))


def test_folders_that_are_links_are_followed_and_circles_refused(tmp_path):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("pets/cat", "elsewhere"):
        Image.new("L", (2, 2)).save(tmp_path / folder / "a.png")
    (tmp_path / "pets" / "dog").symlink_to(tmp_path / "elsewhere")
    assert [row["label"] for row in scan(tmp_path, images=("pets",))] == ["cat", "dog"]
    (tmp_path / "pets" / "cat" / "circle").symlink_to(tmp_path / "pets")
    with pytest.raises(RecipeError, match="can't be read: Too many levels of symbolic links"):
        scan(tmp_path, images=("pets",))


# Parquet.


def test_parquet_row_group_by_row_group(tmp_path):
    rows = [{**row, "nested": {"ids": [1, None]}, "none": None} for row in ROWS]
    write_parquet(tmp_path / "r.parquet", rows, row_group_size=100)
    found = list(read_rows(SourceConfig(parquet=("r.parquet",)), tmp_path))
    assert [row.values for row in found] == rows
    assert found[299].location == "r.parquet:300"


def test_a_missing_column_of_parquet_is_named_with_those_that_are_there(tmp_path):
    write_parquet(tmp_path / "r.parquet", ROWS)
    with pytest.raises(DataError, match=r"^r.parquet:1: there is no column 'txt'; the columns are: 'text', 'label'\."):
        list(read_rows(SourceConfig(parquet=("r.parquet",), columns={"a": "txt"}), tmp_path))


# Datasets of Hugging Face.


def test_a_saved_dataset_comes_back(tmp_path, monkeypatch):
    write_hf(tmp_path / "saved", ROWS)
    rows = list(read_rows(SourceConfig(hf="saved"), tmp_path))
    assert [row.values for row in rows] == ROWS and rows[-1].location == "hf saved:700"
    monkeypatch.chdir(tmp_path / "saved")
    assert scan(tmp_path, hf=str(tmp_path / "saved")) == scan(tmp_path / "nowhere", hf="../saved") == ROWS


def test_splits_of_saved_datasets(tmp_path):
    library = pytest.importorskip("datasets")
    parts = {"train": ROWS[:100], "test": ROWS[100:110]}
    library.DatasetDict({name: library.Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(
        tmp_path / "parts"
    )
    library.Dataset.from_list(ROWS, split="dev").save_to_disk(tmp_path / "one")
    assert scan(tmp_path, hf="parts", split="test") == ROWS[100:110]
    assert scan(tmp_path, hf="parts", split="train[:10%]+test[5:]") == ROWS[:10] + ROWS[105:110]
    assert scan(tmp_path, hf="one", split="dev[-3:]") == ROWS[-3:]
    assert scan(tmp_path, hf="one") == ROWS
    for options, message in (
        ({"hf": "parts"}, "split: hf parts has several splits; name one of: train, test"),
        ({"hf": "parts", "split": "dev"}, "split: hf parts has no 'dev'; its splits are: train, test"),
        ({"hf": "parts", "split": "train[:"}, r"split: hf parts has no 'train\[:'"),
        ({"hf": "parts", "split": "train", "config_name": "x"}, "config_name: .*parts is a saved dataset"),
        ({"hf": "nobody/nothing", "split": "train"}, "hf: 'nobody/nothing' can't be loaded: .*looked for .*nothing"),
        ({"hf": "nobody/nothing", "config_name": "x"}, "hf: 'nobody/nothing' can't be loaded"),
    ):
        with pytest.raises(RecipeError, match=f"^{message}"):
            scan(tmp_path, **options)


def test_a_folder_of_files_is_a_dataset_of_hugging_face_too(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl", ROWS)
    assert scan(tmp_path, hf="folder", split="train[:5]") == ROWS[:5]
    with pytest.raises(RecipeError, match="has several splits; name one of: train"):
        scan(tmp_path, hf="folder")


@pytest.mark.parametrize("damage", ["cut", "state", "missing"])
def test_a_damaged_saved_dataset(tmp_path, damage):
    write_hf(tmp_path / "saved", ROWS)
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    if damage == "cut":
        arrow.write_bytes(arrow.read_bytes()[:-2000])
    elif damage == "state":
        (tmp_path / "saved" / "state.json").write_text("{")
    else:
        arrow.unlink()
    with pytest.raises(RecipeError if damage == "missing" else DataError, match="saved"):
        scan(tmp_path, hf="saved")


def test_images_of_a_dataset_are_arrays_or_defects(tmp_path):
    library = pytest.importorskip("datasets")
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(stream, "PNG")
    Image.new("L", (3, 2), 7).save(tmp_path / "grey.png")
    images = [
        {"bytes": stream.getvalue(), "path": None},
        {"bytes": stream.getvalue()[:50], "path": None},
        None,
        {"bytes": None, "path": str(tmp_path / "grey.png")},
    ]
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})
    library.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features).save_to_disk(tmp_path / "saved")
    first, second, third, fourth = scan_rows(SourceConfig(hf="saved"), tmp_path)
    np.testing.assert_array_equal(first.values["image"], np.broadcast_to([1, 2, 3], (2, 3, 3)))
    assert second.reason == "unreadable_image" and str(second).startswith("hf saved:2: not a readable image")
    assert third.values == {"image": None, "label": 1}
    np.testing.assert_array_equal(fourth.values["image"], np.full((2, 3, 1), 7))


# TFDS.


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """Two datasets that were prepared as ArrayRecord files."""
    library = pytest.importorskip("tensorflow_datasets")
    directory = tmp_path_factory.mktemp("tfds")
    features = {"text": library.features.Text(), "label": library.features.ClassLabel(num_classes=3)}
    rows = {"train": ROWS[:50], "test": ROWS[50:57]}
    prepare_tfds(directory, rows, library.features.FeaturesDict(features), "made", config="small")
    Image.new("L", (4, 3), 7).save(directory / "grey.png")
    features = library.features.FeaturesDict(
        {
            "image": library.features.Image(shape=(None, None, 1)),
            "ids": library.features.Tensor(shape=(None,), dtype=np.int32),
            "words": library.features.Sequence(library.features.Text()),
            "answer": {"text": library.features.Text(), "start": np.int32, "score": np.float32},
        }
    )
    answer = {"text": b"no utf-8: \xff", "start": 1, "score": 0.5}
    one = {"image": str(directory / "grey.png"), "ids": [1, 2], "words": ["a", "é"], "answer": {**answer, "text": "ü"}}
    prepare_tfds(directory, {"train": [one, {**one, "answer": answer}]}, features, "features")
    return directory


@pytest.fixture
def tfds_data(tfds_directory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_directory))
    return tfds_directory


@pytest.mark.parametrize("name", ["made", "made/small", "made/small:1.0.0"])
def test_prepared_data_of_tfds_comes_back_without_tensorflow(tfds_data, name):
    def ordered(rows: list[dict]) -> list[dict]:
        return sorted(rows, key=lambda row: row["text"])

    rows = list(read_rows(SourceConfig(tfds=name, split="train"), tfds_data))
    assert ordered([row.values for row in rows]) == ordered(ROWS[:50])
    assert rows[4].location == f"tfds {name} (train):5"
    assert scan(tfds_data, tfds=name, split="train[:10%]") == [row.values for row in rows[:5]]
    assert ordered(scan(tfds_data, tfds=name, split="train+test")) == ordered(ROWS[:57])
    assert "tensorflow" not in sys.modules


def test_features_of_tfds_become_plain_values(tfds_data):
    first, second = sorted(scan_rows(SourceConfig(tfds="features", split="train"), tfds_data), key=repr)
    assert isinstance(first, DataError) and first.reason == "not_utf8"
    np.testing.assert_array_equal(second.values.pop("image"), np.full((3, 4, 1), 7))
    assert second.values.pop("ids").tolist() == [1, 2]
    assert second.values == {"words": ["a", "é"], "answer": {"text": "ü", "start": 1, "score": 0.5}}
    assert type(second.values["answer"]["start"]) is int


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "mode",
            "train",
            r"tfds: 'mode' is not prepared: looked in .*/mode for .* downloads nothing: set TFDS_DATA_DIR",
        ),
        ("made/large", "train", "tfds: 'made/large' is not prepared"),
        ("made/small:2.0.0", "train", "tfds: 'made/small:2.0.0' is not prepared: looked in .*small for 2.0.0"),
        ("made", "dev", "split: tfds: 'made' has no 'dev'; its splits are: test, train|train, test"),
        ("made", "train[:", r"split: tfds: 'made' has no 'train\[:'"),
    ],
)
def test_what_tfds_has_not(tfds_data, name, split, message):
    for read in (scan_rows, source_fingerprint):
        with pytest.raises(RecipeError, match=message) as caught:
            list(read(SourceConfig(tfds=name, split=split), tfds_data))
        assert "\n" not in str(caught.value)


def copied_tfds(source, target, **versions: str) -> None:
    """Copies `made`, as the configuration and version of each pair."""
    for config, version in versions.items():
        for path in (source / "made/small/1.0.0").iterdir():
            copy = target / "made" / config / version / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes()
            copy.write_bytes(
                content.replace(b'"1.0.0"', f'"{version}"'.encode()) if path.suffix == ".json" else content
            )


def test_the_newest_version_of_tfds_is_read_and_a_configuration_is_asked_for(tfds_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    configs = [SourceConfig(tfds=f"made{rest}", split="train") for rest in ("", ":1.9.0", ":1.10.0")]
    copied_tfds(tfds_directory, tmp_path, small="1.9.0")
    copied_tfds(tfds_directory, tmp_path, small="1.10.0")
    newest, old, new = (source_fingerprint(config, tmp_path) for config in configs)
    assert newest == new != old
    copied_tfds(tfds_directory, tmp_path, large="1.0.0")
    with pytest.raises(RecipeError, match="several configurations; name one: made/large, made/small"):
        scan(tmp_path, tfds="made", split="train")


@pytest.mark.parametrize("damage", ["cut", "missing", "empty"])
def test_files_of_tfds_that_are_cut_off_are_noticed(tfds_directory, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    copied_tfds(tfds_directory, tmp_path, small="1.0.0")
    shard = next(tmp_path.rglob("*train.array_record*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    if damage == "missing":
        shard.unlink()
    with pytest.raises(DataError, match=r"damaged: .*train"):
        scan(tmp_path, tfds="made", split="train[:10%]")
    assert len(scan(tmp_path, tfds="made", split="test")) == 7


def test_data_of_tfds_that_only_tensorflow_reads(tfds_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    copied_tfds(tfds_directory, tmp_path, small="1.0.0")
    info = tmp_path / "made/small/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(RecipeError, match="prepared as tfrecord, which only TensorFlow reads"):
        scan(tmp_path, tfds="made", split="train")


# Compressed files and URLs.


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("gz", gzip.compress), ("xz", lzma.compress), ("zst", zstandard.ZstdCompressor().compress)],
)
def test_compressed_files_hold_what_they_held(tmp_path, shared_data, suffix, compress):
    for key, name in (
        ("jsonl", "lm/tang_poems_zh.jsonl"),
        ("csv", "probes/crows_pairs.csv"),
        ("squad", "qa/xquad_zh.json"),
        ("conll", "ner/wnut17_dev.conll"),
        ("text", "lm/wikitext2_valid.txt"),
    ):
        content = (shared_data / name).read_bytes()
        third = len(content) // 3
        # As parallel compressors write it, with padding as xz allows.
        streams = compress(content[:third]) + compress(content[third:]) + bytes(0 if suffix == "zst" else 8)
        (tmp_path / f"r.{suffix}").write_bytes(streams)
        assert scan(tmp_path, **{key: (f"r.{suffix}",)}) == scan(shared_data, **{key: (name,)})


@pytest.fixture
def memory():
    """An empty file system of fsspec."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()


def test_files_behind_urls_are_read_alike(memory, tmp_path, shared_data):
    poems = (shared_data / "lm/tang_poems_zh.jsonl").read_bytes()
    lines = poems.splitlines(keepends=True)
    memory.pipe({"/poems/b.jsonl.gz": gzip.compress(b"".join(lines[3000:])), "/poems/a.jsonl": b"".join(lines[:3000])})
    memory.pipe({"/poems/other.txt": b"x"})
    expected = scan(shared_data, jsonl=("lm/tang_poems_zh.jsonl",))
    assert scan(tmp_path, jsonl=("memory://poems/*.jsonl*",)) == expected
    assert scan(tmp_path, jsonl=("memory://poems/a.jsonl", "memory://poems/b.jsonl.gz")) == expected
    memory.pipe("/poems/c.jsonl/d.jsonl", b"a file in a folder whose name ends like a file's")
    assert [str(file) for file in resolve_paths(SourceConfig(jsonl=("memory://poems/*.jsonl",)), tmp_path)] == [
        "memory:///poems/a.jsonl"
    ]
    first = next(read_rows(SourceConfig(jsonl=("memory://poems/a.jsonl",)), tmp_path))
    assert first.location == "memory://poems/a.jsonl:1"
    write_jsonl(tmp_path / "local.jsonl", expected[:2])
    assert scan(tmp_path, jsonl=("local.jsonl", "memory://poems/a.jsonl")) == expected[:2] + expected[:3000]


def test_other_formats_behind_urls(memory, tmp_path, shared_data):
    write_parquet(tmp_path / "r.parquet", ROWS)
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 2, 2)), labels=[0, 1, 2])
    Image.new("L", (3, 2), 7).save(tmp_path / "grey.png")
    for name, target in (("r.parquet", "r.parquet"), ("a.npz", "a.npz"), ("grey.png", "pets/cat/grey.png")):
        memory.pipe(f"/{target}", (tmp_path / name).read_bytes())
    memory.pipe("/pets/dog/bad.png", b"bad")
    assert scan(tmp_path, parquet=("memory://r.parquet",)) == ROWS
    assert [row["label"] for row in scan(tmp_path, arrays=("memory://a.npz",))] == [0, 1, 2]
    image, bad = scan(tmp_path, images=("memory://pets",))
    assert bad == "unreadable_image" and image["label"] == "cat"
    np.testing.assert_array_equal(read_image(image["image"], "here"), np.full((2, 3, 1), 7))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://poems/c.jsonl", "jsonl: there is no file 'memory://poems/c.jsonl'"),
        ("memory://poems/*.csv", r"jsonl: no file matches 'memory://poems/\*.csv'"),
        ("memory://poems", r"jsonl: 'memory://poems' is a directory .*name files, as in 'memory://poems/\*'"),
        ("nothing://poems", "jsonl: 'nothing://poems' can't be reached: Protocol not known: nothing"),
    ],
)
def test_urls_of_nothing(memory, tmp_path, url, message):
    memory.pipe("/poems/a.jsonl", b"{}")
    with pytest.raises(RecipeError, match=f"^{message}"):
        resolve_paths(SourceConfig(jsonl=(url,)), tmp_path)


def test_a_url_named_twice_is_refused(memory, tmp_path):
    memory.pipe("/poems/a.jsonl", b"{}")
    with pytest.raises(RecipeError, match="a second time"):
        resolve_paths(SourceConfig(jsonl=("memory://poems/*", "memory:///poems/a.jsonl")), tmp_path)


# Packages that are not installed.


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [
        ({"parquet": ("r.x",)}, "pyarrow", "parquet"),
        ({"jsonl": ("r.zst",)}, "zstandard", "zstd"),
        ({"images": ("folder",)}, "PIL.Image", "images"),
        ({"hf": "folder"}, "datasets", "hf-datasets"),
        ({"tfds": "made", "split": "train"}, "tensorflow_datasets", "tfds"),
        ({"jsonl": ("memory://r.jsonl",)}, "fsspec", "cloud"),
        ({"jsonl": ("gs://bucket/r.jsonl",)}, "gcsfs", "cloud"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, options, module, extra):
    (tmp_path / "folder" / "label").mkdir(parents=True)
    (tmp_path / "folder" / "label" / "a.png").touch()
    (tmp_path / "r.x").touch()
    (tmp_path / "r.zst").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=rf"{module}.*pip install 'jaxft\[{extra}\]'"):
        scan(tmp_path, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_their_exif_data_says(tmp_path, orientation):
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "turned.png", exif=exif)
    theirs = np.asarray(load_image(str(tmp_path / "turned.png")).convert("L"))
    assert np.array_equal(read_image(str(tmp_path / "turned.png"), "here")[..., 0], theirs)
