"""Stand-ins for the tools that scripts call."""

from __future__ import annotations

import json
import os
import sys

import pytest


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A directory for tools of the test's own, before all others of the path, and the calls that they were given."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def add(name: str, body: str) -> None:
        path = directory / name
        note = f"import json, os, sys\nprint(json.dumps(sys.argv), file=open(os.environ['CALLS'], 'a'))\n"  # noqa: F541
        path.write_text(f"#!{sys.executable}\n{note}{body}\n")
        path.chmod(0o755)

    add.calls = lambda: [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    return add
