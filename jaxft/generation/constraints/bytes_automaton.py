"""Syntax trees as deterministic automata over bytes of UTF-8 (Thompson's construction, then sets of states)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import numpy as np

from jaxft.errors import RecipeError
from jaxft.generation.constraints.minimal import minimal
from jaxft.generation.constraints.regex import Characters, Choice, Node, Ranges, Repeat, Separated, Sequence

# Of the deterministic automaton: a table of 20 MB.
_MOST_STATES = 20_000
# Of the machine that it is made from, each of some 300 bytes; a schema with any values has 3,000.
_MOST_PARTS = 10 * _MOST_STATES
# States of the machine in all states of the automaton together, each of some 100 bytes in a set.
_MOST_MEMBERS = 25 * _MOST_STATES

# Characters with as many bytes each; those between the surrogates' neighbours are none.
_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))


class _Machine:
    """A machine that may be in several states at once.

    Attributes:
      moves: of each state, triples of first byte, last byte, next state.
      free: of each state, states that it is in too.
    """

    def __init__(self) -> None:
        self.moves: list[list[tuple[int, int, int]]] = []
        self.free: list[list[int]] = []
        self._built = 0

    def state(self) -> int:
        if len(self.moves) >= _MOST_PARTS:
            raise _too_large()
        self.moves.append([])
        self.free.append([])
        return len(self.moves) - 1

    def build(self, node: Node, start: int) -> int:
        """Adds what matches a node from a state on, and returns the state after it."""
        # Counted too, as repetitions of nothing need no states.
        self._built += 1
        if self._built > _MOST_PARTS:
            raise _too_large()
        if isinstance(node, Characters):
            end = self.state()
            for path in utf8_ranges(node.ranges):
                here = start
                for first, last in path[:-1]:
                    following = self.state()
                    self.moves[here].append((first, last, following))
                    here = following
                self.moves[here].append((*path[-1], end))
            return end
        if isinstance(node, Sequence):
            for part in node.parts:
                start = self.build(part, start)
            return start
        if isinstance(node, Choice):
            end = self.state()
            for part in node.parts:
                before = self.state()
                self.free[start].append(before)
                self.free[self.build(part, before)].append(end)
            return end
        if isinstance(node, Separated):
            loop = self.state()
            self.free[start].append(loop)
            end = self.build(node.part, loop)
            self.free[self.build(node.separator, end)].append(loop)
            return end
        return self._repeat(node, start)

    def _repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self.build(node.part, start)
        end = self.state()
        if node.most is None:
            loop = self.state()
            self.free[start].append(loop)
            self.free[self.build(node.part, loop)].append(loop)
            self.free[loop].append(end)
            return end
        for _ in range(node.most - node.least):
            self.free[start].append(end)
            before = self.state()
            self.free[start].append(before)
            start = self.build(node.part, before)
        self.free[start].append(end)
        return end

    def closed(self, states: Collection[int]) -> frozenset[int]:
        """Those states and all that they are in too."""
        found, waiting = set(states), list(states)
        while waiting:
            for following in self.free[waiting.pop()]:
                if following not in found:
                    found.add(following)
                    waiting.append(following)
        return frozenset(found)


def utf8_ranges(ranges: Ranges) -> Iterator[tuple[tuple[int, int], ...]]:
    """Ranges of characters as sequences of ranges of bytes."""
    for first, last in ranges:
        for low, high in _LENGTHS:
            if first <= high and last >= low:
                yield from _split(chr(max(first, low)).encode(), chr(min(last, high)).encode())


def _split(first: bytes, last: bytes) -> Iterator[tuple[tuple[int, int], ...]]:
    """From one sequence of bytes to another of the same length, all between."""
    if len(first) == 1:
        yield ((first[0], last[0]),)
        return
    low, high = bytes([0x80] * (len(first) - 1)), bytes([0xBF] * (len(first) - 1))
    if first[0] == last[0]:
        yield from (((first[0], first[0]), *rest) for rest in _split(first[1:], last[1:]))
        return
    begin, end = first[0], last[0]
    if first[1:] != low:
        yield from (((begin, begin), *rest) for rest in _split(first[1:], high))
        begin += 1
    tail: list[tuple[tuple[int, int], ...]] = []
    if last[1:] != high:
        tail = [((end, end), *rest) for rest in _split(low, last[1:])]
        end -= 1
    if begin <= end:
        yield from (((begin, end), *rest) for rest in _split(low, high))
    yield from tail


def compile_bytes(tree: Node) -> tuple[np.ndarray, np.ndarray]:
    """The automaton of a tree.

    Returns:
      int32 `(states, 256)`: the state after each byte, -1 for none; it begins in state 0. And bool `(states,)`: whether
      the text is complete there.

    Raises:
      RecipeError: it has too many states.
    """
    machine = _Machine()
    start = machine.state()
    accepting = machine.build(tree, start)
    first = machine.closed([start])
    numbers, waiting = {first: 0}, [first]
    members = len(first)
    rows: list[np.ndarray] = []
    while len(rows) < len(waiting):
        row = np.full(256, -1, np.int32)
        for low, high, targets in _steps(machine, waiting[len(rows)]):
            following = machine.closed(targets)
            if following not in numbers:
                members += len(following)
                if len(numbers) >= _MOST_STATES or members > _MOST_MEMBERS:
                    raise _too_large()
                numbers[following] = len(numbers)
                waiting.append(following)
            row[low : high + 1] = numbers[following]
        rows.append(row)
    return minimal(np.stack(rows), np.asarray([accepting in states for states in waiting]))


def _steps(machine: _Machine, states: frozenset[int]) -> Iterator[tuple[int, int, set[int]]]:
    """Ranges of bytes that lead to the same states, with these."""
    moves = [move for state in states for move in machine.moves[state]]
    edges = sorted({edge for low, high, _ in moves for edge in (low, high + 1)})
    for low, after in itertools.pairwise(edges):
        if targets := {target for first, last, target in moves if first <= low <= last}:
            yield low, after - 1, targets


def _too_large() -> RecipeError:
    return RecipeError(
        f"the constraint needs more than {_MOST_STATES} states; use smaller bounds of repetitions, or fewer of them"
    )
