"""Penalties and the rules of beam search are those of transformers, on one decoder and one encoder-decoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from writing_models import Pair, draw_prompts

from jaxft.generation.config import GenerationConfig
from jaxft.generation.generator import Generator

NEW = 12


@pytest.fixture(scope="module", params=["llama", "t5"])
def pair(request, tmp_path_factory) -> Pair:
    """A model whose texts end early: a third of the vocabulary are end tokens."""
    pair = Pair(request.param, tmp_path_factory.mktemp(request.param))
    ends = tuple(range(1, 24))
    pair.theirs.generation_config.eos_token_id = list(ends)
    pair.special = dataclasses.replace(pair.special, end=ends)
    pair.generator = Generator(pair.loaded.model, pair.special)
    return pair


PROMPTS = draw_prompts((8, 8, 8, 8, 8))


@pytest.mark.parametrize(
    "rules",
    [
        {"early_stopping": True},
        pytest.param({"early_stopping": False, "length_penalty": 0.0}, marks=pytest.mark.slow),
        pytest.param({"early_stopping": False, "length_penalty": 2.0}, marks=pytest.mark.slow),
        pytest.param({"early_stopping": False, "length_penalty": -1.0}, marks=pytest.mark.slow),
        pytest.param({"early_stopping": "never", "length_penalty": 1.5}, marks=pytest.mark.slow),
        pytest.param({"early_stopping": "never", "length_penalty": -0.5}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_ends_of_beam_search(pair, rules):
    expected = pair.of_theirs(PROMPTS, NEW, num_beams=4, **rules)
    assert pair.of_ours(PROMPTS, GenerationConfig(max_new_tokens=NEW, beams=4, **rules)) == expected


def test_several_beams_are_returned(pair):
    expected = pair.of_theirs(PROMPTS, NEW, num_beams=4, num_return_sequences=3)
    config = GenerationConfig(max_new_tokens=NEW, beams=4, num_return_sequences=3)
    assert pair.of_ours(PROMPTS, config) == expected


@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_no_sequence_of_tokens_twice(pair, beams, n):
    if beams == 3 and n == 1:
        pytest.skip("vocabularies of transformers run dry")
    free = [one.token_ids for one in _without_ends(pair).generate(pair.loaded.params, PROMPTS, _config(beams))]
    ruled = pair.of_ours(PROMPTS, _config(beams, no_repeat_ngram=n))
    assert pair.of_theirs(PROMPTS, NEW, num_beams=beams, no_repeat_ngram_size=n) == ruled
    if n == 1 and not pair.has_encoder:
        assert any(len(set(text)) < len(text) for text in map(np.ndarray.tolist, free))


def _config(beams: int, **rules) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=NEW, beams=beams, **rules)


def _without_ends(pair: Pair) -> Generator:
    return Generator(pair.loaded.model, dataclasses.replace(pair.special, end=()))


@pytest.mark.parametrize("penalty", [1.8, 0.7])
def test_repetition_penalty(pair, penalty):
    expected = pair.of_theirs(PROMPTS, NEW, repetition_penalty=penalty)
    assert pair.of_ours(PROMPTS, GenerationConfig(max_new_tokens=NEW, repetition_penalty=penalty)) == expected


def test_bias_of_tokens(pair):
    """Added before all other rules, as the bias of sequences of one token is there."""
    beams = 3 if pair.has_encoder else 1
    plain = pair.of_ours(PROMPTS, _config(beams, repetition_penalty=1.3))
    bias = dict(zip(np.unique(np.concatenate(plain)).tolist(), (-3.0, 2.0, -100.0, 0.5), strict=False))
    theirs = {(token,): change for token, change in bias.items()}
    expected = pair.of_theirs(PROMPTS, NEW, num_beams=beams, repetition_penalty=1.3, sequence_bias=theirs)
    assert pair.of_ours(PROMPTS, _config(beams, repetition_penalty=1.3, logit_bias=tuple(bias.items()))) == expected
    assert plain != expected


def test_least_number_of_tokens(pair):
    plain = pair.of_ours(PROMPTS, GenerationConfig(max_new_tokens=NEW))
    assert min(map(len, plain)) < 7
    expected = pair.of_theirs(PROMPTS, NEW, min_new_tokens=7)
    assert pair.of_ours(PROMPTS, GenerationConfig(max_new_tokens=NEW, min_new_tokens=7)) == expected


def test_forced_tokens(pair):
    """A first token as mBART's language, a last one as BART's end, and one that is never written."""
    likeliest = max(np.concatenate(pair.of_ours(PROMPTS, GenerationConfig(max_new_tokens=NEW))))
    theirs = {"forced_bos_token_id": 40, "forced_eos_token_id": 41, "suppress_tokens": [int(likeliest)]}
    special = dataclasses.replace(pair.special, forced_first=40, forced_last=41, suppressed=(int(likeliest),))
    generator = Generator(pair.loaded.model, special)
    ours = generator.generate(pair.loaded.params, PROMPTS, GenerationConfig(max_new_tokens=6))
    if not pair.has_encoder:
        # There transformers forces the first token only where the prompt has one token.
        theirs.pop("forced_bos_token_id")
        assert all(one.token_ids[0] == 40 for one in ours)
        generator = Generator(pair.loaded.model, dataclasses.replace(special, forced_first=None))
        ours = generator.generate(pair.loaded.params, PROMPTS, GenerationConfig(max_new_tokens=6))
    assert [one.token_ids.tolist() for one in ours] == pair.of_theirs(PROMPTS, 6, **theirs)
