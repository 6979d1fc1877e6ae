"""A small real tokenizer and a small model."""

from __future__ import annotations

import json

import jax
import pytest
from handmade import model_for
from support.addresses import read_addresses

from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece
from jaxft.models.model import initialize


@pytest.fixture(scope="session")
def addresses(shared_data) -> list[str]:
    """Two presidents' addresses."""
    return read_addresses(shared_data, 2)


@pytest.fixture(scope="session")
def tokenizer(addresses, tmp_path_factory):
    """SentencePiece with 300 ids."""
    return train_sentencepiece(addresses, SentencePieceConfig(vocab_size=300), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def sentinel_tokenizer(addresses, tmp_path_factory):
    """The same with T5's hundred sentinels, 400 ids in all."""
    config = SentencePieceConfig(vocab_size=400, sentinels=100)
    return train_sentencepiece(addresses, config, tmp_path_factory.mktemp("sentinels"))


@pytest.fixture(scope="session")
def poems(shared_data) -> list[str]:
    """Tang poems."""
    with (shared_data / "lm" / "tang_poems_zh.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(next(lines))["text"] for _ in range(200)]


@pytest.fixture(scope="session")
def chinese_tokenizer(poems, tmp_path_factory):
    """SentencePiece of the commonest characters of the poems."""
    config = SentencePieceConfig(vocab_size=1600, character_coverage=0.98)
    return train_sentencepiece(poems, config, tmp_path_factory.mktemp("chinese"))


@pytest.fixture(scope="session")
def make_model():
    """A function from objectives, and changes of the config, to a model with their heads, and its fresh parameters."""

    def make(*objectives, **changes):
        model = model_for(*objectives, **changes)
        return model, jax.jit(lambda: initialize(model, jax.random.key(0)))()

    return make
