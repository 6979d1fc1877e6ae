"""Automata over bytes as tables over the tokens of a vocabulary, in numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxft.errors import RecipeError
from jaxft.generation.constraints.bytes_automaton import compile_bytes
from jaxft.generation.constraints.json_schema import parse_schema
from jaxft.generation.constraints.regex import parse

# More tokens than any text has: no complete text can be reached.
NEVER = 2**30
# States times different paths of tokens: 32 MB of a table, of which a server holds several.
_MOST_CELLS = 1 << 23


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """What `jaxft.generation.automaton.Automaton` holds, without what fills it up to few shapes.

    Attributes:
      table: int32 `(states, classes)`.
      classes: int32 `(vocab,)`.
      remaining: int32 `(states,)`.
    """

    table: np.ndarray
    classes: np.ndarray
    remaining: np.ndarray


def constraint_table(name: str, text: str, tokens: Sequence[bytes | None]) -> TokenTable:
    """The table of a constraint.

    Args:
      name: `regex` or `json_schema`.
      text: the expression, or the schema as JSON.
      tokens: what each of the vocabulary writes; None for those that may not come.

    Raises:
      RecipeError: it can't be followed, by itself or by the vocabulary.
    """
    tree = parse(text) if name == "regex" else parse_schema(text)
    found = token_table(*compile_bytes(tree), tokens)
    if int(found.remaining[0]) >= NEVER:
        raise RecipeError(f"{name}: no text that this vocabulary can write matches")
    return found


def token_table(table: np.ndarray, complete: np.ndarray, tokens: Sequence[bytes | None]) -> TokenTable:
    """An automaton over tokens out of one over bytes.

    Args:
      table: int32 `(states, 256)`: the state after a byte, -1 for none.
      complete: bool `(states,)`: whether a text may end there.
      tokens: what each of the vocabulary writes; None or nothing for those that may not come.

    Raises:
      RecipeError: it would be too large.
    """
    paths = _Paths(table)
    found = [paths.of(token) if token else paths.nowhere for token in tokens]
    used, classes = np.unique(found, return_inverse=True)
    narrow = np.stack([paths.ends[number] for number in used], axis=1)
    return TokenTable(narrow, classes.reshape(-1).astype(np.int32), _remaining(narrow, complete))


class _Paths:
    """Where sequences of bytes lead from each state; those that lead to the same states from everywhere are one path.

    Few are different, so that a vocabulary takes a look-up for each of its bytes, and a column for each different path.

    Attributes:
      ends: of each path, int32 `(states,)`: the state after it, -1 for none.
      nowhere: number of the path that leads nowhere from any state.
    """

    def __init__(self, table: np.ndarray):
        # Bytes that lead to the same states from everywhere are as one; the last row is of no state, which -1 finds.
        narrow, kinds = np.unique(table, axis=1, return_inverse=True)
        self._after = np.vstack([narrow, np.full(narrow.shape[1], -1)]).astype(np.int32)
        self._kinds: list[int] = kinds.reshape(-1).tolist()
        self.ends: list[np.ndarray] = []
        self._numbers: dict[bytes, int] = {}
        self._longer: dict[tuple[int, int], int] = {}
        self._empty = self._number(np.arange(len(table), dtype=np.int32))
        self.nowhere = self._number(np.full(len(table), -1, np.int32))

    def of(self, token: bytes) -> int:
        """The number of a token's path."""
        path = self._empty
        for byte in token:
            step = path, self._kinds[byte]
            following = self._longer.get(step)
            if following is None:
                following = self._longer[step] = self._number(self._after[self.ends[path], step[1]])
            path = following
        return path

    def _number(self, ends: np.ndarray) -> int:
        key = ends.tobytes()
        if key not in self._numbers:
            if (len(self.ends) + 1) * len(ends) > _MOST_CELLS:
                raise RecipeError(
                    f"the constraint needs more than {len(self.ends)} kinds of tokens for its {len(ends)} states, "
                    "which is too large to follow; use smaller bounds of repetitions, or fewer of them"
                )
            self._numbers[key] = len(self.ends)
            self.ends.append(np.frombuffer(key, np.int32))
        return self._numbers[key]


def _remaining(table: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """Fewest tokens from each state to one where a text may end, int32 `(states,)`."""
    sources, classes = np.nonzero(table >= 0)
    targets = table[sources, classes]
    order = np.argsort(targets, kind="stable")
    sources, starts = sources[order], np.searchsorted(targets[order], np.arange(len(table) + 1))
    remaining = np.where(complete, 0, NEVER).astype(np.int32)
    # Backwards from where a text may end, each state once.
    near = np.flatnonzero(complete)
    count = 0
    while len(near):
        count += 1
        before = np.concatenate([sources[starts[state] : starts[state + 1]] for state in near])
        near = np.unique(before[remaining[before] == NEVER])
        remaining[near] = count
    return remaining
