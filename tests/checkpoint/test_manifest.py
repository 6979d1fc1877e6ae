"""Checksums of files: a change of any byte of any file is seen."""

from __future__ import annotations

import pytest

from jaxft.checkpoint.manifest import NAME, defect, write_manifest


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "parameters" / "deep").mkdir(parents=True)
    (tmp_path / "parameters" / "data").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "parameters" / "deep" / "data").write_bytes(b"x")
    (tmp_path / "parameters" / "empty").write_bytes(b"")
    (tmp_path / "parameters" / NAME.replace(".json", ".ocdbt")).write_bytes(b"Orbax has manifests of its own")
    (tmp_path / "progress").write_text("{}")
    write_manifest(tmp_path)
    return tmp_path


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_what_was_written_is_whole(directory):
    assert defect(directory) is None
    assert [path.name for path in directory.iterdir() if "partial" in path.name] == []
    write_manifest(directory)
    assert defect(directory) is None


def test_without_a_manifest_it_was_not_completed(tmp_path, directory):
    (directory / NAME).unlink()
    assert "not completely written" in defect(directory)
    assert "not completely written" in defect(directory / "nowhere")


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_anywhere_is_seen_and_its_file_named(directory, bit):
    for path in files(directory):
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1} if content else ():
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            problem = defect(directory)
            if path != directory / NAME:
                assert path.relative_to(directory).as_posix() in problem and "damaged" in problem
        path.write_bytes(content)
    assert defect(directory) is None


def test_a_manifest_cut_anywhere_is_seen(directory):
    content = (directory / NAME).read_bytes()
    for size in range(len(content)):
        (directory / NAME).write_bytes(content[:size])
        assert defect(directory) is not None, size


def test_a_flipped_bit_in_a_checksum_or_a_name_is_seen(directory):
    content = (directory / NAME).read_bytes()
    for place in range(content.index(b"parameters"), len(content) - 4):
        if chr(content[place]).isalnum():
            (directory / NAME).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert defect(directory) is not None, content[: place + 1]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"5", b'"crc32"', b"{}", b'{"crc32": null}', b"\xff\xfe\x00"])
def test_a_manifest_that_says_nothing_is_no_manifest(directory, content):
    (directory / NAME).write_bytes(content)
    assert defect(directory) is not None


@pytest.mark.parametrize("change", [b"", b"y", b"xx"])
def test_a_file_of_other_content_or_length_is_seen(directory, change):
    (directory / "parameters" / "deep" / "data").write_bytes(change)
    assert "parameters/deep/data is damaged" in defect(directory)


def test_a_missing_file_is_named(directory):
    for path in files(directory):
        content = path.read_bytes()
        path.unlink()
        problem = defect(directory)
        assert path.name == NAME or f"{path.relative_to(directory).as_posix()} is missing" in problem
        assert problem is not None
        path.write_bytes(content)


def test_swapped_files_are_seen(directory):
    one, other = directory / "parameters" / "data", directory / "progress"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert "damaged" in defect(directory)
