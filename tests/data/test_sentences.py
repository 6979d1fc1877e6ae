"""Sentences: where they end in English and Chinese, where they don't, and that joined they are the text again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxft.data.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ("We met.", " We spoke!", " Did we?", " Yes."),
        ("It was 3.5 percent.", " Then 4."),
        ("We ask why?!", " Nobody knows..."),
        # Abbreviations and initials end none.
        (
            "Mr. Speaker and Mrs. Smith, members of the U.S. Congress, met Dr. J. F. Brown.",
            " They left at 5 p.m. Eastern.",
        ),
        ("Acme Inc. Holdings grew, e.g. In Ohio.", " So did others, i.e. Ohio's neighbours."),
        ("He came on Jan. 3.", " So did I.", " We left."),
        # Neither does what goes on in small letters.
        ("Hello ... we go on.", " And on."),
        # Quotes and brackets stay with the sentence that they close.
        ('He said: "We go."', " Then he went."),
        ("“We go!”", " (He went.)", " ‘Good.’", " End."),
        # Lines end sentences, and blank ones are none.
        ("PRESIDENT OF THE UNION\n", "\nWe met\n", "We spoke."),
        # Chinese and Japanese need no space.
        ("國破山河在。", "城春草木深！", "感時花濺淚？", "恨別鳥驚心"),
        ("他說：「走吧。」", "他走了；", "我們也走了……", "完。"),
        ("We met.", " 我們見面了。", "We spoke.", " 好。"),
        ("one without an end",),
    ],
)
def test_sentences_end_where_they_end(sentences):
    assert split_sentences("".join(sentences)) == sentences


@pytest.mark.parametrize("text", ["", " ", "\n\n", ".", " . ", "。", "\n a"])
def test_texts_without_a_sentence_are_one(text):
    assert split_sentences(text) == (text,)


def test_white_space_stays_with_the_sentence_after_it_and_at_the_end_with_the_last():
    assert split_sentences("  We met.  We spoke. \n ") == ("  We met.", "  We spoke. \n ")


def texts_of(shared_data):
    for name in ("state_union_train", "state_union_heldout", "tang_poems_zh"):
        with (shared_data / "lm" / f"{name}.jsonl").open(encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in list(lines)[:300])
    yield (shared_data / "lm" / "wikitext2_valid.txt").read_text(encoding="utf-8")[:200_000]


def test_sentences_of_real_texts_join_to_the_text_and_none_is_blank(shared_data):
    lengths = []
    for text in texts_of(shared_data):
        sentences = split_sentences(text)
        assert "".join(sentences) == text
        assert all(sentence.strip() for sentence in sentences)
        lengths += [len(sentence) for sentence in sentences]
    assert len(lengths) > 20_000
    assert np.median(lengths) < 150 and np.quantile(lengths, 0.999) < 1500


def test_sentences_of_any_text_join_to_the_text():
    generator = np.random.default_rng(0)
    characters = [*"aB .!?\n。！\"')」…；\tMr", "Mr. ", "U.S.", "\u3000", "。」"]
    for _ in range(3000):
        text = "".join(generator.choice(characters, generator.integers(0, 25)))
        sentences = split_sentences(text)
        assert "".join(sentences) == text and sentences
        assert all(sentence.strip() for sentence in sentences) or not text.strip()


def test_each_verse_of_a_poem_is_a_sentence(shared_data):
    with (shared_data / "lm" / "tang_poems_zh.jsonl").open(encoding="utf-8") as lines:
        poems = [json.loads(line)["text"] for line in list(lines)[:500]]
    for poem in poems:
        ends = sum(poem.count(mark) for mark in "。！？；")
        assert len(split_sentences(poem)) >= ends - poem.count("」") - poem.count("』")
    assert sum(len(split_sentences(poem)) == poem.count("。") for poem in poems) > 0.8 * len(poems)
