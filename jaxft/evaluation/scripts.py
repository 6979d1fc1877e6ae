"""Of which scripts texts are, as far as metrics of words ask."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Scripts that write no spaces between words: Han, kana, and those of Thailand, Laos, Burma and Cambodia.
WITHOUT_SPACES = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff]"
)
_HAN = re.compile("[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def is_latin(text: str) -> bool:
    """Whether most letters of a text are Latin; so for a text without letters."""
    letters = [c for c in text if c.isalpha()]
    latin = sum(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in letters)
    return 2 * latin >= len(letters)


def unspaced_script(texts: Iterable[str]) -> str | None:
    """`han` or `other` where most letters of the texts are of a script without spaces between words, else None."""
    letters = "".join(c for text in texts for c in text if unicodedata.category(c)[0] in "LM")
    unspaced = len(WITHOUT_SPACES.findall(letters))
    if 2 * unspaced <= len(letters):
        return None
    return "han" if len(_HAN.findall(letters)) == unspaced else "other"
