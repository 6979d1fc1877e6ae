"""A small real tokenizer."""

from __future__ import annotations

import pytest
from support.addresses import read_addresses

from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece


@pytest.fixture(scope="session")
def tokenizer(shared_data, tmp_path_factory):
    """SentencePiece with 300 ids, of two presidents' addresses."""
    texts = read_addresses(shared_data, 2)
    return train_sentencepiece(texts, SentencePieceConfig(vocab_size=300), tmp_path_factory.mktemp("tokenizer"))
