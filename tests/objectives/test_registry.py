"""Objectives by their config."""

from __future__ import annotations

import pytest
from support.settings import setting_of

from jaxft.errors import RecipeError
from jaxft.objectives.contrastive import ContrastiveConfig
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.multiple_choice import MultipleChoiceConfig
from jaxft.objectives.preference import PreferenceConfig
from jaxft.objectives.registry import make_objective
from jaxft.objectives.regression import RegressionConfig
from jaxft.objectives.seq2seq import Seq2SeqConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig

LABELS = ("a", "b")


def test_each_config_makes_its_objective(tokenizer):
    assert isinstance(make_objective(MaskedLMConfig(), setting_of(tokenizer, 64, "replay")), MaskedLM)
    made = make_objective(SequenceClassificationConfig(labels=LABELS), setting_of(tokenizer, 64, "reviews"))
    assert isinstance(made, SequenceClassification) and made.labels == LABELS and made.heads["reviews"].num_labels == 2


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        (RegressionConfig(pair="other", target=("stars",)), ("text", "other")),
        (MultipleChoiceConfig(question="asked", choices=("a", "b")), ("text", "asked", "a", "b")),
        (MultipleChoiceConfig(), ("text", "choices")),
        (ContrastiveConfig(pair="near", negative="far"), ("text", "near", "far")),
        (PreferenceConfig(), ("prompt", "chosen", "rejected")),
        (Seq2SeqConfig(), ("source", "target")),
    ],
)
def test_a_vocabulary_is_made_of_all_texts_and_of_no_numbers(config, columns):
    assert config.text_columns() == columns


@pytest.mark.parametrize("config", [MaskedLMConfig, lambda **o: SequenceClassificationConfig(labels=LABELS, **o)])
def test_the_length_is_the_configs_or_the_models(tokenizer, config):
    assert make_objective(config(), setting_of(tokenizer, 64)).length == 64
    assert make_objective(config(length=20), setting_of(tokenizer, 64)).length == 20


def test_tasks_have_heads_of_their_own_and_pretraining_shares_one(tokenizer):
    heads = [
        make_objective(SequenceClassificationConfig(labels=LABELS), setting_of(tokenizer, 64, name)).head_name
        for name in ("a", "b")
    ]
    assert heads == ["a", "b"]
    assert (
        len({make_objective(MaskedLMConfig(), setting_of(tokenizer, 64, name)).head_name for name in ("a", "b")}) == 1
    )


def test_an_encoder_that_classifies_needs_a_start_token(tokenizer):
    config = SequenceClassificationConfig(labels=LABELS)

    class Headless(type(tokenizer)):
        start_id = None

        def __init__(self):
            vars(self).update(vars(tokenizer))

    with pytest.raises(RecipeError, match=rf"objective {config.kind}: .*start token"):
        make_objective(config, setting_of(Headless(), 64))
