"""Where jaxft keeps what it can compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where jaxft keeps what it can compute again: `$JAXFT_CACHE`, else `~/.cache/jaxft`. May not exist yet."""
    named = os.environ.get("JAXFT_CACHE")
    return Path(named) if named else Path("~/.cache/jaxft").expanduser()
