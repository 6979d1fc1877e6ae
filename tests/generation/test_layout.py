"""Parameters laid out for writing on a CPU: the same numbers, with each layer's for themselves."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from support.drawn import draw_parameters

from jaxft.generation.layout import Layout, SeparateLayers
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model

DECODER = ModelConfig(
    family="decoder", embed_dim=8, num_layers=3, num_heads=2, mlp_dim=12, max_length=8, vocab_size=11, windows=(0, 4, 0)
)
CONFIGS = {
    "tied": DECODER,
    "untied": dataclasses.replace(DECODER, tied_embeddings=False),
    "shared layers": dataclasses.replace(DECODER, windows=(), share_layers=True),
    "encoder-decoder": dataclasses.replace(DECODER, windows=(), family="encoder_decoder", num_decoder_layers=2),
}


def make_model(config: ModelConfig) -> Model:
    return Model(config, (("causal_lm", HeadConfig("causal_lm")),), ComputeConfig())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_reads_the_same_parameters(name):
    model = make_model(CONFIGS[name])
    parameters = draw_parameters(model)
    laid_out = Layout(model)(parameters)
    assert isinstance(laid_out, SeparateLayers)
    variables = laid_out.variables()
    jax.tree.map(np.testing.assert_array_equal, variables["params"], parameters)
    tables = jax.tree.leaves(variables.get("layout", {}))
    expected = [parameters["trunk"]["embeddings"]["tokens"]["table"].T] if model.config.tied_embeddings else []
    assert len(tables) == len(expected)
    for found, wanted in zip(tables, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_stays_in_a_stack_but_what_all_layers_share(name):
    model = make_model(CONFIGS[name])
    stacks = [
        side["stack"] for side in Layout(model)(draw_parameters(model)).params["trunk"].values() if "stack" in side
    ]
    kinds = {type(leaf) for leaf in jax.tree.leaves(stacks, is_leaf=lambda x: isinstance(x, tuple))}
    assert len(kinds) == 1 and issubclass(kinds.pop(), jax.Array if model.config.share_layers else tuple)


def test_a_layout_follows_the_parameters():
    """The transposed table is kept from call to call, and must not outlive its table."""
    model = make_model(DECODER)
    layout = Layout(model)
    for seed in (0, 1, 0):
        parameters = draw_parameters(model, seed)
        table = parameters["trunk"]["embeddings"]["tokens"]["table"]
        np.testing.assert_array_equal(layout(parameters).projection, table.T)


def test_other_devices_and_arrays_keep_their_stacks():
    model = make_model(DECODER)
    parameters = jax.tree.map(np.asarray, draw_parameters(model))
    assert Layout(model)(parameters) is parameters
