"""Where tokens stand in their text, whatever a tokenizer's normalization makes of it."""

from __future__ import annotations

from pydoc_data.topics import topics

import numpy as np
import pytest

from jaxft.data.tokenizers import (
    ByteBPEConfig,
    HuggingFaceTokenizer,
    SentencePieceConfig,
    WordPieceConfig,
    train_tokenizer,
)

TRAINED_ON = [topics[name] for name in ("while", "lambda", "assert", "strings")]
# What transformers makes of a SentencePiece model.
EXPORTED = {"exported_unigram": "unigram", "exported_bytes": "bytes"}
CONFIGS = {
    "unigram": SentencePieceConfig(vocab_size=500),
    "bpe": SentencePieceConfig(vocab_size=500, model_type="bpe", lowercase=True),
    "bytes": SentencePieceConfig(vocab_size=700, byte_fallback=True, user_symbols=("\n",)),
    "wordpiece": WordPieceConfig(vocab_size=500),
    "byte_bpe": ByteBPEConfig(vocab_size=500),
}
TEXTS = [
    "the while statement is used for repeated execution",
    "  spaces  before,   between \t and after  ",
    "ﬁne ½ ①② ㍿ Ａｂｃ ™",  # NFKC makes other characters of these, several of some
    "株式会社は東京に。我们在北京",
    "a 👩‍👩‍👧 and 🇩🇪 flags",
    "e\u0301te\u0301 o\u0308 é",  # combining characters
    "line\nbreak\n\nand tabs\there",
    "",
    " ",
    "a",
]


@pytest.fixture(scope="module", params=[*CONFIGS, *EXPORTED])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind, tmp_path_factory):
    directory = tmp_path_factory.mktemp(kind)
    trained = train_tokenizer(TRAINED_ON, CONFIGS[EXPORTED.get(kind, kind)], directory)
    if kind not in EXPORTED:
        return trained
    trained.export(directory)
    return HuggingFaceTokenizer(directory)


def test_ids_are_those_of_encode(tokenizer):
    for ids, (same, spans) in zip(tokenizer.encode(TEXTS), tokenizer.encode_with_spans(TEXTS), strict=True):
        assert same.tolist() == ids.tolist() and same.dtype == spans.dtype == np.int32
        assert spans.shape == (len(ids), 2)
    assert tokenizer.encode_with_spans([]) == []


def test_spans_are_ordered_and_hold_no_whitespace_at_their_edges(tokenizer):
    for text, (_, spans) in zip(TEXTS, tokenizer.encode_with_spans(TEXTS), strict=True):
        assert (np.diff(spans, axis=0) >= 0).all()
        for start, end in spans.tolist():
            assert 0 <= start <= end <= len(text)
            assert text[start:end].strip() == text[start:end]


def test_every_character_belongs_to_a_token(tokenizer):
    for text, (_, spans) in zip(TEXTS, tokenizer.encode_with_spans(TEXTS), strict=True):
        covered = {place for start, end in spans.tolist() for place in range(start, end)}
        assert all(text[i].isspace() for i in set(range(len(text))) - covered), text


def test_a_token_stands_where_it_is_written(tokenizer, kind):
    text = "the value of the while statement is tested before the first suite is executed"
    ((ids, spans),) = tokenizer.encode_with_spans([text])
    for token, (start, end) in zip(tokenizer.tokens(ids), spans.tolist(), strict=True):
        assert token.removeprefix("##").strip("▁Ġ") == text[start:end]
    words = [0, *(i + 1 for i, character in enumerate(text) if character == " ")]
    assert set(words) <= set(spans[:, 0].tolist())


def test_only_tokens_of_whitespace_stand_for_nothing(tokenizer, kind):
    for text, (ids, spans) in zip(TEXTS, tokenizer.encode_with_spans(TEXTS), strict=True):
        for token, (start, end) in zip(tokenizer.tokens(ids), spans.tolist(), strict=True):
            assert (start == end) == (not token.strip("▁ĠĊĉ \n")), (text, token)


@pytest.mark.parametrize("kind", ["bytes", "byte_bpe", "exported_bytes"], indirect=True)
def test_bytes_of_a_character_all_stand_for_it(tokenizer):
    text = "é 株 x"
    ((_, spans),) = tokenizer.encode_with_spans([text])
    written = [text[start:end] for start, end in spans.tolist()]
    assert (written.count("株"), written.count("é"), written.count("x")) == (3, 2, 1)


@pytest.mark.parametrize("kind", ["unigram", "bytes", *EXPORTED], indirect=True)
def test_all_that_nfkc_makes_of_a_character_stands_for_it(tokenizer):
    ((_, spans),) = tokenizer.encode_with_spans(["a ½ b"])
    assert {tuple(span) for span in spans.tolist() if span[0] != span[1]} == {(0, 1), (2, 3), (4, 5)}
