"""Logits of a part of the tokens at a time: the same losses and gradients, and never all logits in memory."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.models.transformer import Sequences
from jaxft.training.step import bind

ROWS, LENGTH, PLACES, VOCABULARY = 2, 11, 7, 37
_FIELDS = {"embed_dim": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 12, "max_length": LENGTH}
CASES = {
    "decoder": ({"family": "decoder"}, HeadConfig("causal_lm", vocabulary_bias=True), False),
    "untied": ({"family": "decoder", "tied_embeddings": False, "logit_soft_cap": 3.0}, HeadConfig("causal_lm"), False),
    "masked": ({"family": "encoder"}, HeadConfig("masked_lm"), True),
    "encoder-decoder": ({"family": "encoder_decoder"}, HeadConfig("causal_lm"), False),
}


def made(name: str):
    """The model, and a function from a number of parts to one of the parameters."""
    fields, head, gathers = CASES[name]
    model = Model(ModelConfig(vocab_size=VOCABULARY, **_FIELDS, **fields), (("head", head),))
    rng = np.random.default_rng(0)
    ids, other = rng.integers(0, VOCABULARY, (2, ROWS, LENGTH)).astype(np.int32)
    count = PLACES if gathers else LENGTH
    labels = rng.integers(0, VOCABULARY, (ROWS, count)).astype(np.int32)
    weights = rng.random((ROWS, count)).astype(np.float32)
    gather = np.sort(rng.permuted(np.tile(np.arange(LENGTH), (ROWS, 1)), axis=1)[:, :PLACES]) if gathers else None
    target = Sequences(other) if model.config.family == "encoder_decoder" else None

    def loss(parts: int, parameters):
        compute = dataclasses.replace(model.compute, loss_parts=parts)
        apply = bind(model.clone(compute=compute), parameters)
        # A factor, as that of a stream whose loss is but a part of it.
        loss, guessed = apply.token_sums(labels, weights, "head", Sequences(ids), target, gather, label_smoothing=0.1)
        return 0.7 * loss, (loss, guessed)

    return model, loss


def drawn(model: Model):
    """Parameters of which none is zero."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), abstract_parameters(model)[0]
    )


@pytest.mark.parametrize("name", CASES)
def test_parts_give_the_same_losses_and_gradients(name):
    model, loss = made(name)
    parameters = drawn(model)
    (_, sums), gradient = jax.jit(jax.value_and_grad(functools.partial(loss, 1), has_aux=True))(parameters)
    # 3 divides neither the length nor the places.
    (_, of_parts), other = jax.jit(jax.value_and_grad(functools.partial(loss, 3), has_aux=True))(parameters)
    np.testing.assert_allclose(of_parts, sums, rtol=1e-5)
    for (path, one), two in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5 * max(1.0, float(jnp.abs(one).max())), err_msg=str(path))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_there_for_a_part_at_a_time(name):
    model, loss = made(name)
    parameters = drawn(model)

    def tokens_with_logits(parts: int) -> int:
        """Of the largest array over the vocabulary but the parameters' own, forward or backward."""
        program = jax.make_jaxpr(jax.grad(functools.partial(loss, parts), has_aux=True))(parameters)
        own = {leaf.shape for leaf in jax.tree.leaves(parameters)} | {(model.config.embed_dim, VOCABULARY)}
        shapes = {shape[next((i for i, size in enumerate(shape) if size > 1), 0) :] for shape in _shapes(program.jaxpr)}
        return max(int(np.prod(shape[:-1])) for shape in shapes - own if shape[-1:] == (VOCABULARY,))

    places = PLACES if CASES[name][2] else LENGTH
    assert tokens_with_logits(1) == ROWS * places
    assert tokens_with_logits(4) == ROWS * -(-places // 4)


@pytest.mark.parametrize("name", ["decoder", "untied"])
def test_a_frozen_head_has_no_gradient_to_sum(name):
    """Only what is asked for is computed: of a large vocabulary the head's gradient is as large as the head."""
    model, loss = made(name)
    parameters = drawn(model)

    def of_body(body):
        trunk = {**parameters["trunk"], "body": body}
        return loss(3, {**parameters, "trunk": trunk})

    def of_head(head):
        return loss(3, {**parameters, **head})

    body = parameters["trunk"]["body"]
    whole = jax.grad(functools.partial(loss, 1), has_aux=True)(parameters)[0]
    found = jax.grad(of_body, has_aux=True)(body)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, whole["trunk"]["body"])
    program = jax.make_jaxpr(jax.grad(of_body, has_aux=True))(body)
    width = model.config.embed_dim
    assert not {(1, 1, VOCABULARY, width), (1, 1, width, VOCABULARY)} & _shapes(program.jaxpr)
    head = {name: value for name, value in parameters.items() if name != "trunk"}
    found = jax.grad(of_head, has_aux=True)(head)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, {n: whole[n] for n in head})


def test_no_gradient_is_summed_where_none_is_asked_for():
    """As in evaluation."""
    model, loss = made("decoder")
    parameters = drawn(model)
    program = jax.make_jaxpr(functools.partial(loss, 3))(parameters)
    assert (1, 1, VOCABULARY, model.config.embed_dim) not in _shapes(program.jaxpr)
    np.testing.assert_allclose(loss(3, parameters)[1], loss(1, parameters)[1], rtol=1e-5)


def _shapes(jaxpr) -> set[tuple[int, ...]]:
    """Of all that a program computes, with what lies in its loops and calls."""
    found = {variable.aval.shape for equation in jaxpr.eqns for variable in equation.outvars}
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= _shapes(inner)
    return found
