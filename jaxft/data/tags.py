"""Tags of words as entities, in any of the usual schemes: BIO, BIOES (BILOU) and IO."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

OUTSIDE = "O"
_ENTITY_TAG = re.compile(r"([BIESLU])-(.+)")


class TagSet:
    """A set of tags, and how sequences of them say where entities are.

    Entities are those of conlleval (Tjong Kim Sang and Buchholz 2000): one begins at a `B-`, `S-` or `U-`, after a word
    that is outside or ends an entity, and where the type changes. So an `I-` that follows none of its type begins one.

    Attributes:
      labels: the tags, by their ids.
      types: of entities, sorted; empty where the tags are not of entities, as parts of speech.
    """

    def __init__(self, labels: Sequence[str]):
        """
        Args:
          labels: all tags, in the order of their ids.
        """
        self.labels = tuple(labels)
        parts = [_ENTITY_TAG.fullmatch(label) for label in self.labels]
        of_entities = all(part or label == OUTSIDE for part, label in zip(parts, self.labels, strict=True))
        self.types = tuple(sorted({part[2] for part in parts if part})) if of_entities else ()
        prefixes = [part[1] if part and of_entities else OUTSIDE for part in parts]
        # One more for the places between sequences, whose number is -1.
        self._prefixes = np.array([*prefixes, OUTSIDE])
        self._types = np.array([self.types.index(part[2]) if part and of_entities else -1 for part in parts] + [-1])
        self._begin = np.isin(self._prefixes, ("B", "S", "U"))

    def entities(self, tags: np.ndarray) -> np.ndarray:
        """Where entities are.

        Args:
          tags: int `(words,)`, ids; -1 between sequences that follow each other.

        Returns:
          int64 `(entities, 3)`: number of the type, first word, one past the last word.
        """
        starts = self._starts(tags)
        inside = self._prefixes[tags] != OUTSIDE
        ends = inside & np.append(starts[1:] | ~inside[1:], True)
        first = np.flatnonzero(starts)
        return np.stack([self._types[tags[first]], first, np.flatnonzero(ends) + 1], 1).astype(np.int64)

    def _starts(self, tags: np.ndarray) -> np.ndarray:
        prefixes, types = self._prefixes[tags], self._types[tags]
        before, types_before = np.append(OUTSIDE, prefixes[:-1]), np.append(-1, types[:-1])
        follows = np.isin(before, ("B", "I")) & (types == types_before)
        return (prefixes != OUTSIDE) & (self._begin[tags] | ~follows)

    def flaws(self, tags: np.ndarray) -> np.ndarray:
        """Which words, bool `(words,)`, begin an entity with a tag that continues one; none in the scheme IO."""
        return self._starts(tags) & ~self._begin[tags] & self._begin.any()

    def repaired(self, tags: np.ndarray) -> np.ndarray:
        """The same tags with `B-` (`S-`, `U-`) for each flaw, where the set has it."""
        repaired = np.array(tags)
        for place in np.flatnonzero(self.flaws(tags)):
            prefix, kind = self.labels[tags[place]].split("-", 1)
            better = f"{ {'I': 'B', 'E': 'S', 'L': 'U'}[prefix] }-{kind}"
            if better in self.labels:
                repaired[place] = self.labels.index(better)
        return repaired
