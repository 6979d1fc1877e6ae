"""Deterministic automata with as few states as there can be.

States are parted by whether a text may end there, and then by the parts that their bytes lead to, until none splits.
Only what leads into a part that has just been split is looked at again, so that long chains take time in proportion to
their length (as in Blom and Orzan, "Distributed branching bisimulation reduction of state spaces", 2003).
"""

from __future__ import annotations

import numpy as np


def minimal(table: np.ndarray, complete: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An automaton with like states made one.

    Args:
      table: int32 `(states, 256)`: the state after each byte, -1 for none; it begins in state 0.
      complete: bool `(states,)`: whether the text is complete there.
    """
    # Bytes that lead to the same states from everywhere are looked at once.
    narrow = np.unique(table, axis=1)
    groups = np.asarray(_parts(narrow.tolist(), complete.tolist()))
    _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
    # Numbered by their first states, so that the beginning keeps the number 0.
    order = np.argsort(first)
    renumbered = np.empty(len(order), np.int64)
    renumbered[order] = np.arange(len(order))
    groups, first = renumbered[groups], first[order]
    small = table[first]
    return np.where(small >= 0, groups[small], -1).astype(np.int32), complete[first]


def _parts(following: list[list[int]], complete: list[bool]) -> list[int]:
    """The part of each state, by numbers."""
    before: list[set[int]] = [set() for _ in following]
    for state, row in enumerate(following):
        for target in row:
            if target >= 0:
                before[target].add(state)
    # The last is that of no state, which -1 finds.
    part = [*map(int, complete), -1]
    sizes = {0: complete.count(False), 1: complete.count(True)}
    # Where the states of a part lead that have not been looked at since it was last split.
    leads: dict[int, tuple[int, ...]] = {}
    changed = set(range(len(following)))
    while changed:
        pieces: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for state in changed:
            to = tuple([part[target] for target in following[state]])
            pieces.setdefault(part[state], {}).setdefault(to, []).append(state)
        changed = set()
        for number, found in pieces.items():
            is_whole = sum(map(len, found.values())) == sizes[number]
            kept = max(found, key=lambda to: len(found[to])) if is_whole else leads[number]
            leads[number] = kept
            for to, states in found.items():
                if to == kept:
                    continue
                new = len(sizes)
                sizes[new], leads[new] = len(states), to
                sizes[number] -= len(states)
                for state in states:
                    part[state] = new
                    changed |= before[state]
    return part[:-1]
