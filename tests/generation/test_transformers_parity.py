"""Every architecture that writes, writes what transformers does, token for token."""

from __future__ import annotations

import pytest
from writing_models import Pair, draw_prompts

from jaxft.generation.config import GenerationConfig

# Each kind of position, mask, norm and cache; the rest differ from these in what the parity of logits covers.
DECODERS = [
    "gpt2", "gpt-neox", "opt", "opt-350m", "llama", "mistral", "qwen2-windows", "gemma2", "gemma3", "smollm3"
]  # fmt: skip
ENCODER_DECODERS = ["t5", "mt5", "bart", "mbart", "pegasus", "marian"]

# Longer than the windows of the small models, and ragged.
LENGTHS = (5, 9, 3, 12)


QUICK = ("gpt2", "llama", "qwen2-windows", "t5", "bart")


@pytest.fixture(
    scope="module",
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS + ENCODER_DECODERS
    ],
)
def pair(request, tmp_path_factory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp(request.param))


def test_greedy(pair):
    prompts = draw_prompts(LENGTHS)
    expected = pair.of_theirs(prompts, 16)
    assert max(map(len, expected)) > 10
    assert pair.of_ours(prompts, GenerationConfig(max_new_tokens=16)) == expected


@pytest.mark.slow
def test_beams(pair):
    prompts = draw_prompts(LENGTHS)
    expected = pair.of_theirs(prompts, 10, num_beams=3, length_penalty=0.7)
    assert pair.of_ours(prompts, GenerationConfig(max_new_tokens=10, beams=3, length_penalty=0.7)) == expected


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory) -> Pair:
    return Pair("llama-dynamic", tmp_path_factory.mktemp("dynamic"))


def test_rotations_that_grow_with_the_length(dynamic):
    """Prompts of one length: the base of the rotations goes by the longest row of a batch, here as there."""
    prompts = draw_prompts((6, 6))
    assert dynamic.of_ours(prompts, GenerationConfig(max_new_tokens=10)) == dynamic.of_theirs(prompts, 10)
