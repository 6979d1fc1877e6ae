"""Texts cut into sentences, in scripts with spaces between words and without."""

from __future__ import annotations

import re

# A full stop after one of these, or after a single capital, ends no sentence.
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "sen", "rep", "gov", "gen", "col", "capt", "lt", "sgt", "st", "rev", "hon", "jr",
    "sr", "vs", "etc", "cf", "al", "fig", "no", "vol", "pp", "inc", "ltd", "co", "corp", "dept", "e.g", "i.e", "u.s",
    "u.k", "u.n", "a.m", "p.m", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
})  # fmt: skip
_CLOSING = r"[\"'”’»)\]」』》）】]*"
_END = re.compile(
    rf"(?P<ideographic>[。！？；…]+{_CLOSING})"  # no space follows
    rf"|(?P<spaced>(?P<stop>[.!?]+){_CLOSING}(?=\s+(?P<next>\S)))"
    r"|(?P<line>\n(?=\s*\S))"
)


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text, which joined give the text again.

    A sentence ends with `.`, `!` or `?` before a space and something that is no small letter, with their Chinese or
    Japanese forms, or with its line. White space stays with the sentence after it.
    """
    sentences, start = [], 0
    for match in _END.finditer(text):
        if match["spaced"] and not _ends_sentence(text, match):
            continue
        if text[start : match.end()].strip():
            sentences.append(text[start : match.end()])
            start = match.end()
    if text[start:].strip() or not sentences:
        sentences.append(text[start:])
    else:
        sentences[-1] += text[start:]
    return tuple(sentences)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if match["next"].islower():
        return False
    if match["stop"] != ".":
        return True
    # No abbreviation is longer.
    before = text[max(0, match.start() - 12) : match.start()].split()
    word = before[-1].lstrip("\"'“‘«([") if before else ""
    return not (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I"))
