"""Tables of names that plug-ins of one test do not add to for the next."""

from __future__ import annotations

import pytest
from support.plugged import forget_plugins


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What plug-ins add is gone after the test."""
    forget_plugins(monkeypatch)
