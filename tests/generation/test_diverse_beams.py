"""Groups of beams against a plain loop over torch's logits, and against beam search itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from writing_models import Pair, draw_prompts

from jaxft.errors import InvalidField
from jaxft.generation.config import GenerationConfig

NEW = 6


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    return Pair("llama", tmp_path_factory.mktemp("llama"))


def _by_hand(pair: Pair, prompt: np.ndarray, groups: int, beams: int, penalty: float) -> list[tuple[float, list[int]]]:
    """Diverse beam search (arXiv 1610.02424) without ends: at each place one group after the other takes its best
    sequences, by log-probabilities less the penalty for every beam of an earlier group that wrote the token there."""
    kept = [[(0.0, [])] for _ in range(groups)]
    for _ in range(NEW):
        written: list[int] = []
        for group in range(groups):
            grown = []
            for total, tokens in kept[group]:
                ids = torch.tensor([[*prompt.tolist(), *tokens]])
                with torch.no_grad():
                    logs = pair.theirs(ids).logits[0, -1].double().log_softmax(-1).numpy()
                counts = np.bincount(written, minlength=len(logs))
                scores = total + logs - penalty * counts
                grown += [(scores[token], [*tokens, token]) for token in np.argsort(-scores)[: beams + 1].tolist()]
            kept[group] = sorted(grown, key=lambda one: -one[0])[:beams]
            written += [tokens[-1] for _, tokens in kept[group]]
    return sorted(((total / NEW, tokens) for group in kept for total, tokens in group), key=lambda one: -one[0])


@pytest.mark.parametrize(
    ("groups", "beams", "penalty"),
    [pytest.param(3, 1, 0.7, marks=pytest.mark.slow), (2, 2, 0.7), pytest.param(2, 3, 50.0, marks=pytest.mark.slow)],
)
def test_groups_are_those_of_a_plain_loop(pair, groups, beams, penalty):
    """Prompts of different lengths in one batch."""
    prompts = draw_prompts((7, 4))
    generator = pair.generator
    special, generator.special = generator.special, dataclasses.replace(generator.special, end=())
    try:
        config = GenerationConfig(
            max_new_tokens=NEW,
            beams=groups * beams,
            beam_groups=groups,
            diversity_penalty=penalty,
            num_return_sequences=groups * beams,
        )
        found = generator.generate(pair.loaded.params, prompts, config)
    finally:
        generator.special = special
    for number, prompt in enumerate(prompts):
        expected = _by_hand(pair, prompt, groups, beams, penalty)
        own = [one for one in found if one.prompt == number]
        assert [one.token_ids.tolist() for one in own] == [tokens for _, tokens in expected]
        np.testing.assert_allclose([one.log_probability / NEW for one in own], [s for s, _ in expected], atol=1e-4)
        if groups == 2 and beams == 3:  # so large a penalty keeps the groups apart from the first token on
            firsts = {tokens[0] for _, tokens in expected}
            assert len(firsts) > 1


def test_one_group_is_beam_search_and_many_without_penalty_are_the_same_ones(pair):
    prompts = draw_prompts((5,))
    plain = GenerationConfig(max_new_tokens=NEW, beams=2, num_return_sequences=2)
    grouped = dataclasses.replace(plain, beams=4, beam_groups=2, num_return_sequences=4)
    best = pair.of_ours(prompts, plain)
    assert pair.of_ours(prompts, grouped) == [one for one in best for _ in range(2)]


def test_impossible_groups():
    for options, words in (
        ({"beams": 4, "beam_groups": 3}, "must divide"),
        ({"beams": 4, "diversity_penalty": 1.0}, "above 1"),
        ({"beam_groups": 2}, "must divide"),
        ({"beams": 2, "beam_groups": 2, "diversity_penalty": -1.0}, "negative"),
    ):
        with pytest.raises(InvalidField, match=words):
            GenerationConfig(**options)
