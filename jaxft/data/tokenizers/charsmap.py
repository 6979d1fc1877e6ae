"""SentencePiece's normalization (Kudo and Richardson, arXiv 1808.06226) by normalizers of the `tokenizers` library.

A SentencePiece model holds a table of strings and their replacements. At each place of a text, the longest string of
the table that stands there is replaced. `tokenizers` reads the same table, but asks it for whole grapheme clusters of
up to five bytes and takes the shortest string that one begins with, or else for single code points: "e" and two accents
lose the second accent, a capital that is folded loses all, "か" and a voicing mark stay two. So the table gets to see
single code points only, and what it would have composed is composed by NFC, exactly where SentencePiece would.

Every text is normalized as by SentencePiece, but for
- characters of Unicode 13 to 16 that are made of two (scripts such as Tulu-Tigalari), where the NFC of `tokenizers`
  is older than SentencePiece's table and leaves them decomposed;
- decomposed Greek letters with an iota subscript and a decomposed "İ", where case is folded: SentencePiece folds
  these when they are composed, but not when they are decomposed;
- the code points U+FFF0 to U+FFF2, which Unicode has never assigned, and U+100000 and following, for private use, as
  many as there are user symbols: these serve as marks here.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Regex, normalizers

# Code points at which grapheme clusters end and across which NFC neither composes nor sorts. _JOINT stands between
# the parts of what is composed, _BOUNDARY before any other mark, _FOUND after a user symbol.
_BOUNDARY, _JOINT, _FOUND = "\ufff0", "\ufff1", "\ufff2"
_FIRST_SYMBOL = 0x100000
# What may join the code point before it in a grapheme cluster, besides what the table composes.
_JOINING = r"\p{M}\x{200c}\x{200d}\x{0e33}\x{0eb3}\x{1f3fb}-\x{1f3ff}"
_NORMALIZER_SPEC, _CHARSMAP = 3, 2


def normalizer_of(model: bytes, user_symbols: Sequence[str]) -> normalizers.Normalizer:
    """The normalization of a SentencePiece model, but for the space before the text and "▁" for spaces.

    Args:
      model: content of ``tokenizer.model``.
      user_symbols: strings that stay as they are; none holds a space.
    """
    table = _charsmap(model)
    precompiled = normalizers.Precompiled(table)
    removed, later, longest = _expressions_of(table)
    joining, other = f"[{_JOINING}{later}]", f"[^{_JOINING}{later}]"
    # Only from the beginning of a cluster on, or from where the last match ended, is a string of the table looked for.
    ends = rf"(?=(?m:.){joining})(?=\G|{other})(?>{longest}|(?m:.))\K(?={joining})"
    placeholders = {symbol: chr(_FIRST_SYMBOL + index) for index, symbol in enumerate(user_symbols)}
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(rf"\A[{removed}]+"), " "),
            *_hidden(placeholders),
            normalizers.Replace(Regex(ends), _BOUNDARY),
            normalizers.Replace(Regex(f"(?<=[^{_BOUNDARY}])(?={joining})"), _JOINT),
            precompiled,
            normalizers.Replace(_JOINT, ""),
            normalizers.NFC(),
            normalizers.Replace(_BOUNDARY, ""),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Replace(Regex(r" \z"), ""),
            *(normalizers.Replace(placeholder, symbol) for symbol, placeholder in placeholders.items()),
        ]
    )


@functools.lru_cache(maxsize=4)
def _expressions_of(table: bytes) -> tuple[str, str, str]:
    """The characters that a table removes, those that it composes with what is before them, and what it composes.

    Of hundreds of thousands of strings, so it takes seconds; most models have one of the same few tables.
    """
    precompiled, sources = normalizers.Precompiled(table), list(_sources(table))
    composed = [source for source in sources if len(source) > 1]
    removed = [source for source in sources if len(source) == 1 and not precompiled.normalize_str(source)]
    later = _characters({character for source in composed for character in source[1:]})
    return _characters(removed), later, _longest_of(composed)


def _hidden(placeholders: dict[str, str]) -> Iterator[normalizers.Normalizer]:
    """Puts a placeholder for each symbol: the leftmost first and of two at one place the longer, as SentencePiece."""
    if not placeholders:
        return
    longest_first = sorted(placeholders, key=len, reverse=True)
    yield normalizers.Replace(Regex(rf"(?>{any_of(longest_first)})\K"), _FOUND)
    for symbol in longest_first:
        if len(symbol) > 1:
            yield normalizers.Replace(Regex(rf"\A{any_of([symbol])}{_FOUND}"), " " + placeholders[symbol])
        yield normalizers.Replace(symbol + _FOUND, placeholders[symbol])


def any_of(strings: Iterable[str]) -> str:
    """A regular expression of `tokenizers` for strings, of which the first that fits is taken."""
    return "|".join("".join(f"\\x{{{ord(character):x}}}" for character in string) for string in strings)


def _longest_of(strings: Iterable[str]) -> str:
    """A regular expression for the longest of many strings; those with the same ends share an alternative."""
    tree: dict = {}
    for string in strings:
        node = tree
        for character in string:
            node = node.setdefault(character, {})
        node[""] = {}
    return _expression(tree)


def _expression(node: dict) -> str:
    by_rest = defaultdict(list)
    for character, child in node.items():
        if character:
            by_rest[_expression(child)].append(character)
    if not by_rest:
        return ""
    alternatives = "|".join(f"[{_characters(characters)}]{rest}" for rest, characters in by_rest.items())
    return f"(?:{alternatives})" + ("?" if "" in node else "")


def _characters(characters: Iterable[str]) -> str:
    """The inside of a character class."""
    points = np.array(sorted(map(ord, characters)))
    runs = np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)
    return "".join(f"\\x{{{run[0]:x}}}-\\x{{{run[-1]:x}}}" for run in runs)


def _charsmap(model: bytes) -> bytes:
    """The table of a model: ``ModelProto.normalizer_spec.precompiled_charsmap``."""
    return _fields(_fields(model)[_NORMALIZER_SPEC])[_CHARSMAP]


def _fields(message: bytes) -> dict[int, bytes]:
    """The last value of each field with a length in a message of Protocol Buffers.

    Read here because the classes that sentencepiece brings for this only work with some versions of protobuf.
    """
    fields, at = {}, 0
    while at < len(message):
        key, at = _varint(message, at)
        # Kinds of values: 0 is a number of varying length, 1 and 5 are numbers of eight and four bytes.
        length = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 in (0, 2):
            number, at = _varint(message, at)
            length = number if key & 7 == 2 else 0
        if key & 7 == 2:
            fields[key >> 3] = message[at : at + length]
        at += length
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _sources(table: bytes) -> Iterator[str]:
    """All strings that a table replaces.

    It begins with a double-array trie (Aoe 1989, as in Darts-clone), of as many bytes as its first four say. A unit
    has a label (the byte that leads to it), a flag (a string ends here) and an offset; children are found at the
    unit's number, exclusive or its offset and their label.
    """
    units = np.frombuffer(table, "<u4", int.from_bytes(table[:4], "little") // 4, offset=4).astype(np.int64)
    numbers = np.arange(len(units))
    bases = numbers ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    labels = units & (1 << 31 | 0xFF)
    children = defaultdict(list)
    # A unit with the highest bit holds a replacement, one with the label 0 is empty.
    for number in np.flatnonzero((labels > 0) & (labels <= 0xFF)).tolist():
        children[number ^ int(labels[number])].append((int(labels[number]), number))
    ends, starts = ((units >> 8) & 1).astype(bool).tolist(), bases.tolist()
    pending = [(0, b"")]
    while pending:
        number, source = pending.pop()
        if ends[number]:
            yield source.decode()
        pending += [(child, source + bytes([label])) for label, child in children[starts[number]]]
