"""A small real tokenizer and a small model."""

from __future__ import annotations

import functools
import json

import jax
import pytest

from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece
from jaxft.huggingface.exporting import natural_head
from jaxft.models.config import ModelConfig
from jaxft.models.model import Model, initialize


@pytest.fixture(scope="session")
def addresses(shared_data) -> list[str]:
    """Two presidents' addresses."""
    with (shared_data / "lm" / "state_union_train.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(next(lines))["text"] for _ in range(2)]


@pytest.fixture(scope="session")
def tokenizer(addresses, tmp_path_factory):
    """SentencePiece with 300 ids."""
    return train_sentencepiece(addresses, SentencePieceConfig(vocab_size=300), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def jit():
    """`jax.jit` that compiles in a third of the time; the tests' models are so small that fast code gains nothing."""
    return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="session")
def make_model(tokenizer, jit):
    """A function from objectives to a model with their heads, and its fresh parameters."""

    def make(*objectives, layers=2):
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size, embed_dim=32, num_layers=layers, num_heads=2, mlp_dim=48,
            max_length=64, token_types=2,
            position="learned",
        )  # fmt: skip
        heads = {name: natural_head(name, head, config, None) for one in objectives for name, head in one.heads.items()}
        model = Model(config, tuple(heads.items()))
        return model, jit(lambda: initialize(model, jax.random.key(0)))()

    return make
