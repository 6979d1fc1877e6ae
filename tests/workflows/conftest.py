"""The small recipe as a file."""

from __future__ import annotations

import pathlib

import pytest
from support.small_recipe import RECIPE


@pytest.fixture
def recipe(tmp_path, shared_data, monkeypatch) -> pathlib.Path:
    """The recipe's file; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(f"{RECIPE}data: {{directory: {shared_data}}}\n")
    return path
