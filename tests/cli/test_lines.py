"""Texts are the same from standard input and from a file, whoever wrote them."""

from __future__ import annotations

import io
import sys

import pytest

from jaxft.cli.lines import given_texts
from jaxft.cli.main import run
from jaxft.errors import DataError

WANTED = ["größer", "", "二"]


@pytest.fixture(params=["file", "standard input"])
def texts(request, tmp_path, monkeypatch):
    """Reads the texts of some bytes."""

    def read(content: bytes) -> list[str]:
        if request.param == "file":
            (tmp_path / "texts.txt").write_bytes(content)
            return given_texts(None, str(tmp_path / "texts.txt"), "text")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
        return given_texts(None, None, "text")

    return read


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_are_the_same_however_they_end(texts, mark, end, last):
    assert texts((mark + end.join(WANTED) + (end if last else "")).encode()) == WANTED


def test_other_bytes_than_utf8_are_an_error_that_says_where(texts):
    with pytest.raises(DataError, match=r"not text in UTF-8: .* position 2"):
        texts("größer".encode("latin-1"))


def test_a_word_of_other_bytes_is_refused(capsys):
    for words in (["train", "a=\udcff"], ["classify", "model", "--text", "gr\udcf6sser"]):
        assert run(words) == 2
        err = capsys.readouterr().err
        assert f"word {len(words)} of the command is not UTF-8" in err and err.count("jaxft: ") == 1
