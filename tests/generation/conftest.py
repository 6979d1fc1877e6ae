"""A small decoder with a byte-level vocabulary."""

from __future__ import annotations

import pathlib
import sys

import pytest

# The small models of other rooms' tests.
sys.path[:0] = [str(pathlib.Path(__file__).parent.parent / room) for room in ("models", "huggingface")]

from drawn import draw_parameters  # noqa: E402

from jaxft.data.tokenizers import ByteBPEConfig, train_tokenizer  # noqa: E402
from jaxft.generation.config import SpecialTokens  # noqa: E402
from jaxft.generation.generator import Generator  # noqa: E402
from jaxft.models.config import ModelConfig  # noqa: E402
from jaxft.models.heads import HeadConfig  # noqa: E402
from jaxft.models.model import Model  # noqa: E402
from jaxft.workflows.inference.generate import TextGenerator  # noqa: E402

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
