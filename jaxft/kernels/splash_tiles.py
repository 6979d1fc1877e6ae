"""Which tiles of its scores splash computes, and a name that tells of them in compiled programs and profiles."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

_NAME = re.compile(r"splash_(\d+)_tiles_of_(\d+)x(\d+)")


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tiles of a head that a device computes; all others a mask hides whole, and they are skipped.

    Attributes:
      computed: how many, in the mean over the devices that share the queries, rounded up.
      queries: of a tile.
      keys: of a tile.
    """

    computed: int
    queries: int
    keys: int

    @property
    def name(self) -> str:
        """A scope for the kernel's calls, from which `named_in` reads the tiles."""
        return f"splash_{self.computed}_tiles_of_{self.queries}x{self.keys}"

    @staticmethod
    def named_in(text: str) -> Tiles | None:
        """The tiles whose name is in a text; None where there is none."""
        found = _NAME.search(text)
        return Tiles(*map(int, found.groups())) if found else None


def computed_tiles(
    positions: np.ndarray, key_length: int, tiles: tuple[int, int], devices: int, window: tuple[int | None, int | None]
) -> Tiles:
    """The tiles in which a query sees a key.

    Args:
      positions: int `(query_length,)`: where the queries of all devices stand in the sequence.
      key_length: keys, in their order.
      tiles: queries and keys of a tile.
      devices: that share the queries.
      window: how many keys before and after itself a query sees; None where there is no limit.
    """
    queries, keys = tiles
    first, last = (edge(positions.reshape(-1, queries), axis=1)[:, None] for edge in (np.min, np.max))
    starts = np.arange(0, key_length, keys)[None]
    left, right = window
    seen = np.ones((len(first), starts.size), bool)
    if left is not None:
        seen &= starts + keys - 1 >= first - left
    if right is not None:
        seen &= starts <= last + right
    return Tiles(-(-int(seen.sum()) // devices), queries, keys)
