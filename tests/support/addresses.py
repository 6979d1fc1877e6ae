"""Presidents' addresses, the real text of most tests."""

from __future__ import annotations

import itertools
import json
import pathlib


def read_addresses(directory: pathlib.Path, count: int) -> list[str]:
    """The first of them.

    Args:
      directory: of the real data.
      count: how many.
    """
    with (directory / "lm" / "state_union_train.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in itertools.islice(lines, count)]
