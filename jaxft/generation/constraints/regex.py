"""Regular expressions that a whole text must match, as syntax trees over sets of characters.

What is understood: literals, `.`, classes `[a-z]` and `[^a-z]`, `\\d \\w \\s` and their opposites, groups `( )` and
`(?: )`, `|`, `* + ?`, `{n}`, `{n,}` and `{n,m}`. Classes like `\\d` mean ASCII. What depends on more than the
characters so far (references, looking ahead or behind, anchors inside) is refused.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterable

from jaxft.errors import RecipeError

# The last character of Unicode.
LAST = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Characters:
    """One character out of ranges, first and last included, in order and apart."""

    ranges: Ranges


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One after the other; the empty text where there are none."""

    parts: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Any of several."""

    parts: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class Repeat:
    """So many times, without a bound where `most` is None."""

    part: Node
    least: int
    most: int | None


@dataclasses.dataclass(frozen=True)
class Separated:
    """Once or more often, with something between each two."""

    part: Node
    separator: Node


Node = Characters | Sequence | Choice | Repeat | Separated

_MOST_REPEATS = 1000
# An expression that is longer has more states than an automaton may have; deeper, it is more than Python's stack holds.
_LONGEST, _DEEPEST = 20_000, 100
# Of an expression, in messages.
_SHOWN = 60


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)


def _others(ranges: Ranges) -> Ranges:
    edges, result = 0, []
    for first, last in ranges:
        if edges < first:
            result.append((edges, first - 1))
        edges = last + 1
    if edges <= LAST:
        result.append((edges, LAST))
    return tuple(result)


def _of(characters: str) -> Ranges:
    return _merged((ord(c), ord(c)) for c in characters)


_CLASSES = {"d": _of(string.digits), "w": _of(string.ascii_letters + string.digits + "_"), "s": _of(" \t\n\r\f\v")}
_CLASSES |= {name.upper(): _others(ranges) for name, ranges in _CLASSES.items()}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_ANY = _others(_of("\n"))
_NUMBERS = {"x": 2, "u": 4}
_BOUNDS = re.compile(r"([0-9]+)(,)?((?<=,)[0-9]+)?\}")


def parse(pattern: str) -> Node:
    """The tree of a regular expression; `^` at its beginning and `$` at its end say what holds anyway.

    Raises:
      RecipeError: it can't be read, or asks for what an automaton can't do.
    """
    if len(pattern) > _LONGEST:
        raise RecipeError(f"regex has {len(pattern)} characters, at most {_LONGEST} are followed")
    parser = _Parser(pattern)
    tree = parser.choice()
    if parser.at < len(parser.text):
        raise parser.wrong("has a ) without its (")
    return tree


def literal(text: str) -> Node:
    """The tree of a text that stands for itself."""
    return Sequence(tuple(Characters(_of(character)) for character in text))


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, pattern: str):
        self.pattern = pattern
        end = len(pattern) - (pattern.endswith("$") and not pattern.endswith("\\$"))
        self.text = pattern[pattern.startswith("^") : end]
        self.at = 0
        self.depth = 0

    def wrong(self, problem: str) -> RecipeError:
        shown = self.pattern if len(self.pattern) <= _SHOWN else f"{self.pattern[:_SHOWN]}..."
        return RecipeError(f"regex {shown!r} {problem}, at {self.text[max(0, self.at - 1) :][:10]!r}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        if self.at >= len(self.text):
            raise self.wrong("ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def choice(self) -> Node:
        parts = [self.sequence()]
        while self.peek() == "|":
            self.take()
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self) -> Node:
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.one()))
        return Sequence(tuple(parts))

    def repeated(self, part: Node) -> Node:
        signs = 0
        while self.peek() and self.peek() in "*+?{":
            sign = self.take()
            signs += 1
            if self.depth + signs > _DEEPEST:
                raise self.wrong(f"has more than {_DEEPEST} repetitions in each other")
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign) or self.bounds()
            if self.peek() == "?":
                raise self.wrong("has a lazy repetition, which means nothing where the whole text matches")
            part = Repeat(part, least, most)
        return part

    def bounds(self) -> tuple[int, int | None]:
        found = _BOUNDS.match(self.text, self.at)
        if found is None:
            raise self.wrong("has a { that is no repetition; write \\{ for the character")
        self.at = found.end()
        inside, least, comma, most = found[0][:-1], found[1], found[2], found[3]
        if max(len(least), len(most or "")) > len(str(_MOST_REPEATS)):
            raise self.wrong(f"repeats more than {_MOST_REPEATS} times")
        low, high = int(least), (int(most) if most else None) if comma else int(least)
        if high is not None and high < low:
            raise self.wrong(f"has the impossible repetition {{{inside}}}")
        if max(low, high or 0) > _MOST_REPEATS:
            raise self.wrong(f"repeats more than {_MOST_REPEATS} times")
        return low, high

    def one(self) -> Node:
        character = self.take()
        if character == "(":
            return self.group()
        if character == "[":
            return Characters(self.bracket())
        if character == ".":
            return Characters(_ANY)
        if character == "\\":
            return Characters(self.escaped())
        if character in "*+?{":
            raise self.wrong(f"repeats nothing with {character}")
        if character in "^$":
            raise self.wrong(f"has {character} inside; write \\{character} for the character")
        return Characters(_of(character))

    def group(self) -> Node:
        if self.text.startswith("?:", self.at):
            self.at += 2
        elif self.peek() == "?":
            raise self.wrong("has a group that is neither ( ) nor (?: )")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.wrong(f"has more than {_DEEPEST} groups in each other")
        tree = self.choice()
        if self.peek() != ")":
            raise self.wrong("has a ( without its )")
        self.depth -= 1
        self.take()
        return tree

    def escaped(self) -> Ranges:
        character = self.take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROL:
            return _of(_CONTROL[character])
        if character in _NUMBERS:
            digits = self.text[self.at : self.at + _NUMBERS[character]]
            if len(digits) < _NUMBERS[character] or set(digits) - set(string.hexdigits):
                raise self.wrong(f"has a \\{character} without its digits")
            self.at += len(digits)
            return _of(chr(int(digits, 16)))
        if character.isalnum():
            raise self.wrong(f"has \\{character}, which is not understood")
        return _of(character)

    def bracket(self) -> Ranges:
        opposite = self.peek() == "^"
        if opposite:
            self.take()
        ranges: list[tuple[int, int]] = []
        is_first = True
        while is_first or self.peek() != "]":
            is_first = False
            low = self.member()
            is_range = self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", "")
            if not is_range:
                ranges += low
                continue
            self.take()
            high = self.member()
            if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or low[0][0] > high[0][0]:
                raise self.wrong("has an impossible range in [ ]")
            ranges.append((low[0][0], high[0][0]))
        self.take()
        merged = _merged(ranges)
        return _others(merged) if opposite else merged

    def member(self) -> Ranges:
        character = self.take()
        return self.escaped() if character == "\\" else _of(character)
