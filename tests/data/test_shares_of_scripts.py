"""Scripts of letters: those of Unicode's own table, which another library holds."""

from __future__ import annotations

import sys
import unicodedata

import pytest
import regex

from jaxft.data.scripts import shares_of_scripts

# As in the Universal Declaration of Human Rights, and the letters of each script in it.
TEXTS = {
    "人人生而自由，在尊严和权利上一律平等。": {"han": 17},
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。": {"hiragana": 27, "han": 11},
    "コーヒー": {"katakana": 4},
    "모든 인간은 태어날 때부터 자유로우며": {"hangul": 16},
    "يولد جميع الناس أحرارا": {"arabic": 19},
    "Все люди рождаются свободными": {"cyrillic": 26},
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι": {"greek": 34},
    "Toate fiinţele umane": {"latin": 18},
    "सभी": {"devanagari": 2},
}


@pytest.fixture(scope="module")
def all_letters() -> str:
    """Of Unicode, each in one form."""
    every = map(chr, range(sys.maxunicode + 1))
    return "".join(c for c in every if c.isalpha() and unicodedata.normalize("NFKC", c) == c)


@pytest.mark.parametrize(("text", "letters"), TEXTS.items(), ids=range(len(TEXTS)))
def test_texts_of_one_language(text, letters):
    total = sum(letters.values())
    assert shares_of_scripts(text) == {script: count / total for script, count in letters.items()}


def test_a_mixture_has_all_its_scripts_in_the_order_of_their_shares():
    counts: dict[str, int] = {}
    for letters in TEXTS.values():
        for script, count in letters.items():
            counts[script] = counts.get(script, 0) + count
    found = shares_of_scripts(" 12, ".join(TEXTS))
    assert found == pytest.approx({script: count / sum(counts.values()) for script, count in counts.items()})
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(
    ("form", "script"),
    [
        ("Ｔａｂｕ", "latin"),
        ("ｶﾞﾝﾀﾞﾑ", "katakana"),
        ("𝐱𝑦ℓ", "latin"),
        ("ﷺ", "arabic"),
        ("ﾡ", "hangul"),
        ("々", "han"),
        ("ﬁ", "latin"),
    ],
)
def test_forms_of_letters_count_as_the_letters(form, script):
    assert shares_of_scripts(form) == {script: 1}


@pytest.mark.parametrize("text", ["", "12 + 3 = 15!", "ʼ —", "😀"])
def test_nothing_is_said_of_texts_without_letters(text):
    assert shares_of_scripts(text) == {}


@pytest.mark.parametrize(
    "script",
    ["Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Tamil", "Thai", "Tibetan",
     "Georgian", "Hangul", "Ethiopic", "Khmer", "Mongolian", "Hiragana", "Katakana", "Bopomofo", "Han", "Yi", "Tai_Le",
     "Old_Italic"],
)  # fmt: skip
def test_every_letter_of_a_script(all_letters, script):
    found = shares_of_scripts("".join(regex.findall(rf"\p{{Script={script}}}", all_letters)))
    # A few letters are called by what they modify.
    assert next(iter(found)) == script.replace("_", " ").lower() and found[next(iter(found))] > 0.99
