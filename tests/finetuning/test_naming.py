"""Names of parameters by layer: every layer of every kind of stack has its own, and it is the layer that it says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawn import draw_parameters
from support.two_heads import LENGTH, VOCABULARY, small_config

from jaxft.errors import RecipeError
from jaxft.finetuning.naming import check_pattern, depth, layer_names
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.models.transformer import Sequences

QUERY = "attention/query/kernel"
# A first layer by itself, two repeats of two kinds, and one that is left over.
UNEVEN = {"num_layers": 6, "windows": (0, 2), "first_attention_norm": False, "norm_placement": "pre"}


def names_of(model: Model) -> list[str]:
    return [name for own in layer_names(*abstract_parameters(model), model.config) for name in own]


def test_every_layer_of_every_group_has_one_name():
    model = Model(small_config(**UNEVEN))
    assert [group.name for group in model.config.layer_groups(6)] == ["first_layer", "layers", "last_layers"]
    names = names_of(model)
    assert len(names) == len(set(names))
    assert sorted(name for name in names if name.endswith(QUERY)) == [f"trunk/body/layer_{i}/{QUERY}" for i in range(6)]


def test_a_name_is_that_of_the_layer_whose_output_it_changes():
    model = Model(small_config(**UNEVEN))
    parameters = draw_parameters(model)
    names = layer_names(*abstract_parameters(model), model.config)
    inputs = Sequences(jnp.arange(LENGTH)[None] % VOCABULARY)

    @jax.jit
    def outputs(parameters):
        _, kept = model.apply({"params": parameters}, inputs, mutable=["layer_outputs"])
        groups = kept["layer_outputs"]["trunk"]["body"]["stack"]
        ordered = [groups[f"{group.name}_outputs"][0] for group in model.config.layer_groups(6)]
        return jnp.stack([block[i] for blocks in ordered for i in range(blocks[0].shape[0]) for block in blocks])

    before = np.asarray(outputs(parameters))
    leaves, structure = jax.tree.flatten(parameters)
    for layer in range(6):
        wanted = f"trunk/body/layer_{layer}/feed_forward/output/kernel"
        (place,) = [place for place, own in enumerate(names) if wanted in own]
        changed = list(leaves)
        row = names[place].index(wanted)
        changed[place] = leaves[place].at[row].add(1.0)
        after = np.asarray(outputs(jax.tree.unflatten(structure, changed)))
        differs = [not np.array_equal(before[i], after[i]) for i in range(6)]
        assert differs == [i >= layer for i in range(6)], layer


def test_shared_layers_have_one_name_between_the_embeddings_and_the_heads():
    model = Model(small_config(num_layers=3, share_layers=True), (("task", HeadConfig("sequence_classification", 3)),))
    names = names_of(model)
    (query,) = [name for name in names if name.endswith(QUERY)]
    assert query == f"trunk/body/shared_layer/{QUERY}"
    depths = {name: depth(name, model.config) for name in (query, names[0], "trunk/embeddings/tokens/table")}
    assert depths == {query: (1, 2), "head_task/classifier/bias": (2, 2), "trunk/embeddings/tokens/table": (0, 2)}


def test_the_sides_of_an_encoder_decoder_are_numbered_apart():
    model = Model(
        small_config(family="encoder_decoder", num_layers=2, num_decoder_layers=3),
        (("causal_lm", HeadConfig("causal_lm")),),
    )
    names = names_of(model)
    for side, layers in (("encoder", 2), ("decoder", 3)):
        own = [name for name in names if name.startswith(f"trunk/{side}/layer_") and name.endswith(f"/{QUERY}")]
        own = [name for name in own if "cross" not in name]
        assert own == [f"trunk/{side}/layer_{i}/{QUERY}" for i in range(layers)]
        assert [depth(name, model.config) for name in own] == [(i + 1, layers + 1) for i in range(layers)]
    assert f"trunk/decoder/layer_2/cross_{QUERY}" in names


def test_a_generator_is_a_head_with_layers_of_its_own():
    model = Model(small_config(), (("generator", HeadConfig("generator", size=0.5)),))
    own = [name for name in names_of(model) if name.startswith("head_generator/") and name.endswith(QUERY)]
    assert own == [f"head_generator/body/layer_{i}/{QUERY}" for i in range(2)]
    # No layer of the trunk: it learns as heads do.
    assert {depth(name, model.config) for name in own} == {(3, 3)}


def test_depths_rise_from_the_embeddings_to_the_heads():
    config = small_config(norm_placement="pre", final_norm=True)
    wanted = {
        "trunk/embeddings/tokens/table": 0,
        "trunk/embeddings/learned_positions/table": 0,
        f"trunk/body/layer_0/{QUERY}": 1,
        f"trunk/body/layer_1/{QUERY}": 2,
        "trunk/body/final_norm/scale": 3,
        "head_task/classifier/kernel": 3,
    }
    assert {name: depth(name, config) for name in wanted} == {name: (place, 3) for name, place in wanted.items()}


def test_a_pattern_that_finds_nothing_is_refused_with_the_nearest_names():
    names = names_of(Model(small_config()))
    check_pattern("layer_1/", names, "finetuning.freeze")
    with pytest.raises(
        RecipeError,
        match=r"finetuning.freeze: 'layer_2/atention/query/kernel' matches no parameter; "
        r"the nearest are 'layer_\d/attention/query/kernel'",
    ):
        check_pattern("layer_2/atention/query/kernel", names, "finetuning.freeze")
    with pytest.raises(RecipeError, match="the nearest are 'trunk/body'"):
        check_pattern("^trunk/bodi", names, "finetuning.freeze")
    with pytest.raises(RecipeError, match="is not a regular expression"):
        check_pattern("layer_(", names, "finetuning.freeze")
