"""Heads read what they should of the hidden states."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawn import draw_parameters

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.models.transformer import Sequences

CONFIG = ModelConfig(vocab_size=23, embed_dim=16, num_layers=1, num_heads=2, mlp_dim=24)
HEADS = (
    ("masked_lm", HeadConfig("masked_lm")),
    ("causal_lm", HeadConfig("causal_lm")),
    ("first", HeadConfig("sequence_classification", 3)),
    ("mean", HeadConfig("sequence_classification", 3, pooling="mean")),
)
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 23, (2, 9)), jnp.int32)
SEQUENCES = Sequences(IDS, jnp.asarray([[1] * 9, [1] * 5 + [0] * 4], jnp.int32))


def build(**fields) -> tuple[Model, dict]:
    model = Model(dataclasses.replace(CONFIG, **fields), HEADS)
    return model, draw_parameters(model)


def run(model, parameters, **arguments):
    return jax.jit(lambda p: model.apply({"params": p}, **arguments))(parameters)


@pytest.mark.parametrize("head", ["masked_lm", "causal_lm"])
def test_gathered_places_are_those_of_all_logits(head):
    model, parameters = build()
    gather = jnp.asarray([[0, 3, 3, 8], [4, 1, 0, 0]], jnp.int32)
    everywhere = run(model, parameters, inputs=SEQUENCES, head=head).logits
    assert everywhere.shape == (2, 9, 23) and everywhere.dtype == jnp.float32
    some = run(model, parameters, inputs=SEQUENCES, head=head, gather=gather).logits
    wanted = np.take_along_axis(np.asarray(everywhere), np.asarray(gather)[..., None], 1)
    np.testing.assert_allclose(some, wanted, atol=1e-5)


def test_a_causal_head_is_the_embedding_table_transposed():
    model, parameters = build(logit_scale=0.25)
    output = run(model, parameters, inputs=SEQUENCES, head="causal_lm")
    table = parameters["trunk"]["embeddings"]["tokens"]["table"]
    np.testing.assert_allclose(output.logits, 0.25 * np.asarray(output.hidden) @ np.asarray(table).T, atol=1e-5)


def test_an_untied_head_has_a_kernel_of_its_own():
    model, parameters = build(tied_embeddings=False)
    output = run(model, parameters, inputs=SEQUENCES, head="causal_lm")
    kernel = parameters["head_causal_lm"]["vocabulary"]["kernel"]
    np.testing.assert_allclose(output.logits, np.asarray(output.hidden) @ np.asarray(kernel), atol=1e-5)


def test_a_soft_cap_bounds_the_logits():
    model, parameters = build()
    free = run(model, parameters, inputs=SEQUENCES, head="masked_lm").logits
    capped = run(*build(logit_soft_cap=2.0), inputs=SEQUENCES, head="masked_lm").logits
    assert float(jnp.abs(free).max()) > 2
    np.testing.assert_allclose(capped, 2 * np.tanh(np.asarray(free) / 2), atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_classifier_pools_real_tokens_alone(pooling):
    model, parameters = build()
    output = run(model, parameters, inputs=SEQUENCES, head=pooling)
    hidden, head = np.asarray(output.hidden), parameters[f"head_{pooling}"]
    pooled = hidden[:, 0] if pooling == "first" else np.stack([hidden[0].mean(0), hidden[1, :5].mean(0)])
    dense = np.tanh(pooled @ np.asarray(head["pooler"]["kernel"]) + np.asarray(head["pooler"]["bias"]))
    wanted = dense @ np.asarray(head["classifier"]["kernel"]) + np.asarray(head["classifier"]["bias"])
    assert output.logits.dtype == jnp.float32
    np.testing.assert_allclose(output.logits, wanted, atol=1e-5)


def test_without_a_head_there_are_no_logits():
    model, parameters = build()
    output = run(model, parameters, inputs=SEQUENCES)
    assert output.logits is None and output.hidden.shape == (2, 9, 16)


@pytest.mark.parametrize("head", ["masked_lm", "causal_lm", "first", "mean"])
def test_logits_are_float32_in_low_precision(head):
    model, parameters = build()
    low = dataclasses.replace(model, compute=ComputeConfig("bfloat16"))
    exact, rounded = (run(m, parameters, inputs=SEQUENCES, head=head).logits for m in (model, low))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.1)
    assert float(jnp.abs(rounded - exact).max()) > 0
