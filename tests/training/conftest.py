"""A small model with two heads, its objectives, and batches of random text for them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from support.addresses import read_addresses
from support.settings import setting_of
from support.two_heads import small_model

from jaxft.data.batches import example_generator
from jaxft.data.store import TOKENS
from jaxft.data.tokenizers import SentencePieceConfig, train_sentencepiece
from jaxft.models.config import ComputeConfig
from jaxft.models.model import Model, initialize
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.parallel.mesh import MeshConfig, make_mesh

LENGTH = 24


@pytest.fixture(scope="session")
def tokenizer(shared_data, tmp_path_factory):
    """SentencePiece with 200 ids, of one president's address."""
    return train_sentencepiece(
        read_addresses(shared_data, 1), SentencePieceConfig(vocab_size=200), tmp_path_factory.mktemp("tokenizer")
    )


@pytest.fixture(scope="session")
def fresh_parameters(make_model):
    """The parameters that the small model begins with."""
    model = make_model()
    return jax.jit(lambda: initialize(model, jax.random.key(0)))()


@pytest.fixture(scope="session")
def mesh():
    return make_mesh(MeshConfig())


@pytest.fixture(scope="session")
def objectives(tokenizer):
    """`task` classifies, `replay` predicts masked tokens; no dropout."""
    task = SequenceClassificationConfig(labels=("bad", "fair", "good"), dropout=0.0)
    return {
        "task": SequenceClassification(task, setting_of(tokenizer, LENGTH, "task")),
        "replay": MaskedLM(MaskedLMConfig(), setting_of(tokenizer, LENGTH)),
    }


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """A function from changes of the config to a model with a head for each objective."""

    def make(precision="float32", **changes) -> Model:
        fields = {"vocab_size": tokenizer.vocab_size, "embed_dim": 32, "num_layers": 1, "mlp_dim": 48}
        fields |= {"max_length": LENGTH, "token_types": 2, "initializer_range": 0.02}
        return small_model(ComputeConfig(precision), **fields | changes)

    return make


@pytest.fixture(scope="session")
def make_batches(tokenizer, objectives):
    """A function from a seed to batches of 8 rows for both objectives, with few and many predicted tokens."""

    def make(seed: int = 0):
        rng = np.random.default_rng(seed)

        def text(size: int) -> np.ndarray:
            return rng.integers(5, tokenizer.vocab_size, size).astype(np.int32)

        made = {"task": [], "replay": []}
        for i in range(8):
            record = {TOKENS: text(rng.integers(1, LENGTH - 2)), "label": int(rng.integers(3))}
            made["task"].append(objectives["task"].make_row([record], [example_generator(seed, 0, i)]))
            record = {TOKENS: text(3 if i % 4 else LENGTH - 2)}
            made["replay"].append(objectives["replay"].make_row([record], [example_generator(seed, 1, i)]))
        batches = {}
        for name, rows in made.items():
            batches[name] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            batches[name]["row_weight"] = np.ones(8, np.float32)
        batches["task"]["row_weight"][[0, 1, 4]] = 0.0  # rows of padding, unevenly over micro batches
        return batches

    return make
