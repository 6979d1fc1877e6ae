"""A configuration that makes no model is refused with the name of the field that is wrong."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from jaxft.errors import InvalidField
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.recipe.presets import PRESETS


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"vocab_size": 0}, "vocab_size", "at least 1"),
        ({"num_layers": -1}, "num_layers", "at least 1"),
        ({"embed_dim": 10, "num_heads": 3}, "num_heads", "3 does not divide embed_dim 10"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads", "3 does not divide num_heads 4"),
        ({"dropout": 1.0}, "dropout", r"\[0, 1\)"),
        ({"attention_dropout": -0.1}, "attention_dropout", r"\[0, 1\)"),
        ({"embed_dim": 12, "num_heads": 4, "position": "rotary"}, "head_dim", "even"),
        ({"windows": (4, -1)}, "windows", "negative"),
    ],
)
def test_an_impossible_field_is_named(fields, field, told):
    with pytest.raises(InvalidField, match=told) as caught:
        ModelConfig(**fields)
    assert caught.value.field == field


def test_a_width_of_heads_frees_their_number():
    config = ModelConfig(embed_dim=10, num_heads=3, head_dim=4)
    shapes, _ = abstract_parameters(Model(config))
    kernel = shapes["trunk"]["body"]["stack"]["layers"]["block_0"]["attention"]["query"]["kernel"]
    assert kernel.shape == (config.num_layers, 10, 3, 4)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_model(preset):
    config = ModelConfig(**PRESETS[preset])
    shapes, axes = abstract_parameters(Model(config))
    assert jax.tree.structure(shapes) == jax.tree.structure(
        axes, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )


def test_bert_base_has_the_published_number_of_parameters():
    """110M: 109,482,240 with the pooler (Devlin et al. 2018; the checkpoint bert-base-uncased)."""
    config = ModelConfig(**{**PRESETS["bert-base"], "vocab_size": 30522})
    shapes, _ = abstract_parameters(Model(config))
    pooler = 768 * 768 + 768
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + pooler == 109_482_240


@pytest.mark.parametrize(
    "fields", [{"scan_layers": True}, {"remat": "full"}, {"precision": "bfloat16"}, {"attention": "reference"}]
)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
def test_how_a_model_is_computed_changes_no_parameter(fields, family):
    config = ModelConfig(
        family=family,
        vocab_size=20,
        embed_dim=16,
        num_layers=5,
        num_heads=2,
        mlp_dim=32,
        windows=(0, 2),
        attention_bias=True,
    )
    model = Model(config, (("lm", HeadConfig("masked_lm")), ("task", HeadConfig("sequence_classification", 3))))
    plain = abstract_parameters(model)
    other = abstract_parameters(dataclasses.replace(model, compute=ComputeConfig(**fields)))
    assert plain == other
