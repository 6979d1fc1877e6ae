"""A small decoder with a byte-level vocabulary."""

from __future__ import annotations

import pytest
from support.drawn import draw_parameters

from jaxft.data.tokenizers import ByteBPEConfig, train_tokenizer
from jaxft.generation.config import SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.workflows.inference.generate import TextGenerator

TEXT = 'the cat sat on the mat. {"name": "Ann", "age": 12, "tags": [true, false]} Is it? yes, no, perhaps 10 20 é ü'


@pytest.fixture(scope="session")
def writer(tmp_path_factory) -> TextGenerator:
    """With random weights, and positions that end at 64."""
    tokenizer = train_tokenizer([TEXT] * 20, ByteBPEConfig(vocab_size=330), tmp_path_factory.mktemp("tokenizer"))
    config = ModelConfig(
        family="decoder",
        vocab_size=tokenizer.vocab_size,
        embed_dim=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        mlp_dim=32,
        max_length=64,
        windows=(0, 5),
        position="learned",
    )
    model = Model(config, (("causal_lm", HeadConfig("causal_lm")),))
    special = SpecialTokens(end=(tokenizer.separator_id,), pad=tokenizer.pad_id)
    return TextGenerator(Generator(model, special, tokenizer), draw_parameters(model))
