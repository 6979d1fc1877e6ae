"""The inside of JSON's strings: what a character may be, and expressions of characters as they are spelled there."""

from __future__ import annotations

from jaxft.generation.constraints.regex import (
    LAST,
    Characters,
    Choice,
    Node,
    Ranges,
    Repeat,
    Separated,
    Sequence,
    literal,
    parse,
)

# Halves of characters are spelled in pairs alone.
_HALVES = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_CODE = r"\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})"
# One character of a string.
CHARACTER = parse(rf'[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt]|{_CODE}|{_HALVES}')
# What stands for itself, and the short spellings of what does not.
_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, LAST))
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SPELLED = {ord(one): _SHORT.get(one, f"\\u{ord(one):04x}") for one in ["\x7f", *map(chr, range(0x20)), '"', "\\"]}


def within_string(node: Node) -> Node:
    """What an expression of characters matches, as it is spelled between the quotes of a string of JSON."""
    if isinstance(node, Characters):
        return _characters(node.ranges)
    if isinstance(node, Repeat):
        return Repeat(within_string(node.part), node.least, node.most)
    if isinstance(node, Separated):
        return Separated(within_string(node.part), within_string(node.separator))
    parts = tuple(within_string(part) for part in node.parts)
    return Sequence(parts) if isinstance(node, Sequence) else Choice(parts)


def _characters(ranges: Ranges) -> Node:
    plain = tuple(
        (max(first, low), min(last, high))
        for first, last in ranges
        for low, high in _PLAIN
        if max(first, low) <= min(last, high)
    )
    spelled = [literal(text) for code, text in _SPELLED.items() if any(first <= code <= last for first, last in ranges)]
    return Choice((Characters(plain), *spelled)) if spelled else Characters(plain)
