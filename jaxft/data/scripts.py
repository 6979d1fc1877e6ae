"""Which scripts a text is written in, by the names that Unicode gives to its letters."""

from __future__ import annotations

import collections
import functools
import unicodedata

# Names begin with their script: LATIN SMALL LETTER A, HIRAGANA LETTER KA. Where they do not:
_BY_FIRST_WORD = {
    "CJK": "han", "IDEOGRAPHIC": "han", "HENTAIGANA": "hiragana", "TURNED": "latin", "ROMAN": "latin",
    # Letters of no script: apostrophes, tones, signs of repetition.
    "MODIFIER": None, "VERTICAL": None, "CARON": None, "MASU": None, "VEDIC": None,
}  # fmt: skip
# The first of two words: OLD ITALIC LETTER A, TAI LE LETTER KA.
_FIRST_OF_TWO = ("OLD", "NEW", "TAI", "LINEAR", "OL")


def shares_of_scripts(text: str) -> dict[str, float]:
    """Shares of a text's letters by script, in English and lower case, the largest first; of no letters nothing.

    Chinese is `han`, Japanese `han`, `hiragana` and `katakana`, Korean `hangul`. Forms of one letter count as it
    (full and half width, ligatures, mathematical alphabets); vowel signs and other marks do not count.
    """
    counts: collections.Counter[str] = collections.Counter()
    # Each letter by itself, so that what is beside it is not composed with it.
    for letter, count in collections.Counter(text).items():
        for plain in unicodedata.normalize("NFKC", letter):
            if plain.isalpha() and (script := _script_of(plain)):
                counts[script] += count
    return {script: count / counts.total() for script, count in counts.most_common()}


@functools.cache
def _script_of(letter: str) -> str | None:
    words = unicodedata.name(letter, "UNKNOWN").replace("-", " ").split()
    if words[0] in _BY_FIRST_WORD:
        return _BY_FIRST_WORD[words[0]]
    return " ".join(words[: 2 if words[0] in _FIRST_OF_TWO else 1]).lower()
