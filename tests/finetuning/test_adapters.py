"""Bottleneck adapters: nothing at the start, in every block, and trained alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawn import draw_parameters
from support.small_tuning import described, moved, optimizer_of, policy_of, run, start_of, step_of
from support.two_heads import LENGTH, VOCABULARY, small_config, small_model

from jaxft.errors import InvalidField
from jaxft.finetuning.adapters import TRAINED, AdapterConfig, AdapterModel
from jaxft.finetuning.naming import parameter_names
from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.models.config import ComputeConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, initialize
from jaxft.models.transformer import Sequences
from jaxft.training.state import replaced

INPUTS = Sequences(jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, (2, LENGTH)), jnp.int32))
FAMILIES = {
    "encoder": {"num_layers": 2},
    "decoder": {"family": "decoder", "position": "rotary", "parallel_residual": True},
    "encoder_decoder": {"family": "encoder_decoder", "num_layers": 1, "num_decoder_layers": 2},
}


def begun(model, seed: int = 0):
    """Drawn parameters of a model, and the adapted model's with these in them."""
    adapted = AdapterModel(model, AdapterConfig(3))
    plain = draw_parameters(model, seed)
    fresh = jax.jit(lambda: initialize(adapted, jax.random.key(seed)))()
    return adapted, plain, replaced(fresh, plain)


def noise(shape) -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    "family",
    [name if name == "encoder_decoder" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_an_adapted_model_begins_as_it_was_and_each_bottleneck_counts(family):
    model = Model(small_config(**FAMILIES[family]), (), ComputeConfig(scan_layers=True))
    adapted, plain, start = begun(model)
    targets = INPUTS if family == "encoder_decoder" else None
    before = model.apply({"params": plain}, INPUTS, targets).hidden
    compiled = jax.jit(lambda parameters: adapted.apply({"params": parameters}, INPUTS, targets).hidden)
    np.testing.assert_allclose(compiled(start), before, atol=1e-5)
    added = [name for name in parameter_names(start) if name.endswith("adapter_up_kernel")]
    sublayers = {"encoder": 2, "decoder": 2, "encoder_decoder": 2 + 3}[family]
    assert len(added) == sublayers
    for chosen in added:
        names = iter(parameter_names(start))
        # Not the same for all features, which a norm would take out again.
        grown = jax.tree.map(lambda leaf, n=names, c=chosen: noise(leaf.shape) if next(n) == c else leaf, start)
        assert np.abs(compiled(grown) - before).max() > 1e-3, chosen


@pytest.mark.slow
def test_adapters_and_heads_move_and_nothing_else():
    adapted, _, start = begun(small_model())
    policy = policy_of(adapted, train_only=(*TRAINED, "^head_"))
    optimizer = optimizer_of(adapted, policy, name="adamw", weight_decay=0.1)
    after, _ = run(start_of(start, optimizer, policy), step_of(adapted, optimizer, policy), 2)
    found = moved(adapted, start, after.parameters)
    everything = {name for names in described(adapted)[2] for name in names}
    adapters = {name for name in everything if "/adapter_" in name}
    assert adapters <= found <= adapters | {name for name in everything if name.startswith("head_")}


def test_a_bottleneck_has_a_width():
    with pytest.raises(InvalidField):
        AdapterConfig(0)


def test_an_adapted_model_writes_what_its_own_logits_say():
    """Evaluations write answers with the model that is trained: token by token, with keys and values kept."""
    model = Model(small_config(**FAMILIES["decoder"], max_length=32), (("causal_lm", HeadConfig("causal_lm")),))
    adapted, _, start = begun(model)
    grown = jax.tree.map(lambda leaf: leaf + 0.3 * noise(leaf.shape), start)
    prompt = np.asarray(INPUTS.token_ids[0])
    generator = Generator(adapted, SpecialTokens(end=(), pad=0))
    (written,) = generator.generate(grown, [prompt], GenerationConfig(max_new_tokens=6))

    ids = prompt.tolist()
    for _ in range(6):
        sequences = Sequences(jnp.asarray([ids], jnp.int32))
        logits = adapted.apply({"params": grown}, sequences, None, "causal_lm").logits
        ids.append(int(logits[0, -1].argmax()))
    assert written.token_ids.tolist() == ids[len(prompt) :]
