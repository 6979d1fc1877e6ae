"""Objectives by their config."""

from __future__ import annotations

import pytest

from jaxft.errors import RecipeError
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.registry import make_objective
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig

LABELS = ("a", "b")


def test_each_config_makes_its_objective(tokenizer):
    assert isinstance(make_objective(MaskedLMConfig(), tokenizer, 64, "replay"), MaskedLM)
    made = make_objective(SequenceClassificationConfig(labels=LABELS), tokenizer, 64, "reviews")
    assert isinstance(made, SequenceClassification) and made.labels == LABELS and made.head.num_labels == 2


@pytest.mark.parametrize("config", [MaskedLMConfig, lambda **o: SequenceClassificationConfig(labels=LABELS, **o)])
def test_the_length_is_the_configs_or_the_models(tokenizer, config):
    assert make_objective(config(), tokenizer, 64, "x").length == 64
    assert make_objective(config(length=20), tokenizer, 64, "x").length == 20


def test_tasks_have_heads_of_their_own_and_pretraining_shares_one(tokenizer):
    heads = [
        make_objective(SequenceClassificationConfig(labels=LABELS), tokenizer, 64, name).head_name
        for name in ("a", "b")
    ]
    assert heads == ["a", "b"]
    assert len({make_objective(MaskedLMConfig(), tokenizer, 64, name).head_name for name in ("a", "b")}) == 1


@pytest.mark.parametrize("config", [MaskedLMConfig(), SequenceClassificationConfig(labels=LABELS)])
def test_a_tokenizer_without_a_start_token_is_refused(tokenizer, config):
    class Headless(type(tokenizer)):
        start_id = None

        def __init__(self):
            vars(self).update(vars(tokenizer))

    with pytest.raises(RecipeError, match=rf"objective {config.kind}: .*start token"):
        make_objective(config, Headless(), 64, "x")
