"""A small real tokenizer."""

from __future__ import annotations

import json

import pytest

from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece


@pytest.fixture(scope="session")
def tokenizer(shared_data, tmp_path_factory):
    """SentencePiece with 300 ids, of two presidents' addresses."""
    lines = (shared_data / "lm" / "state_union_train.jsonl").open(encoding="utf-8")
    with lines:
        texts = [json.loads(next(lines))["text"] for _ in range(2)]
    return train_sentencepiece(texts, SentencePieceConfig(vocab_size=300), tmp_path_factory.mktemp("tokenizer"))
