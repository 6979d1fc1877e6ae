"""The same result however it is computed: in a loop or unrolled, with or without remat, packed or alone."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawn import draw_parameters

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.model import Model, initialize
from jaxft.models.transformer import Sequences

VOCABULARY = 30
SMALL = {"vocab_size": VOCABULARY, "embed_dim": 16, "num_heads": 4, "mlp_dim": 24, "max_length": 16}
FAMILIES = {
    # Five layers with a pattern of two windows: two groups and a rest.
    "encoder": {
        "num_layers": 5, "windows": (0, 2), "norm_placement": "post", "embedding_norm": True, "final_norm": False,
        "attention_bias": True, "mlp_bias": True,
    },
    "decoder": {
        "num_layers": 2, "norm": "rmsnorm", "gated": True, "num_kv_heads": 2, "query_key_norm": "head",
        "norm_placement": "sandwich",
    },
    "encoder_decoder": {"num_layers": 2, "num_decoder_layers": 3, "norm": "rmsnorm", "position": "relative_bias"},
}  # fmt: skip
PLAIN = ComputeConfig()
WAYS = {
    "scanned": ComputeConfig(scan_layers=True),
    "remat full": ComputeConfig(remat="full"),
    "remat full, scanned": ComputeConfig(remat="full", scan_layers=True),
    "remat dots, scanned": ComputeConfig(remat="dots", scan_layers=True),
}


def config_of(family: str, **fields) -> ModelConfig:
    return ModelConfig(**{"family": family, **SMALL, **FAMILIES[family], **fields})


def ids_of(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, shape), jnp.int32)


def hidden_and_gradient(model: Model, parameters, *sequences, weights=None):
    """Hidden states, and the gradient of a weighted sum of them."""
    toward = jnp.cos(jnp.arange(model.config.embed_dim, dtype=jnp.float32))

    @functools.partial(jax.grad, has_aux=True)
    def loss(parameters):
        hidden = model.apply({"params": parameters}, *sequences).hidden
        per_token = jnp.square(hidden * toward).sum(-1)
        return (per_token if weights is None else per_token * weights).sum(), hidden

    gradient, hidden = jax.jit(loss)(parameters)
    return hidden, gradient


def assert_trees_close(ours, theirs, relative: float):
    """Each leaf within a share of its size, or of the others' where it is nothing beside them (a key's bias)."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    least = 1e-3 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        largest = max(np.abs(other).max(), least)
        np.testing.assert_allclose(one, other, atol=relative * largest, err_msg=jax.tree_util.keystr(path))


@functools.cache
def computed_plainly(family: str):
    model = Model(config_of(family), compute=PLAIN)
    parameters = draw_parameters(model)
    return model, parameters, hidden_and_gradient(model, parameters, *inputs_of(family))


def inputs_of(family: str) -> list[Sequences]:
    segments = jnp.asarray([[1] * 4 + [2] * 3 + [0], [1] * 8], jnp.int32)
    return [Sequences(ids_of(2, 8, seed=i), segments) for i in range(2 if family == "encoder_decoder" else 1)]


@pytest.mark.parametrize(
    ("family", "way"),
    [
        pytest.param("encoder", "scanned", marks=pytest.mark.slow),
        pytest.param("encoder", "remat dots, scanned", marks=pytest.mark.slow),
        ("decoder", "scanned"),
        ("decoder", "remat full"),
        pytest.param("encoder_decoder", "remat full, scanned", marks=pytest.mark.slow),
    ],
)
def test_the_way_of_computing_changes_neither_values_nor_gradients(family, way):
    model, parameters, (hidden, gradient) = computed_plainly(family)
    other = dataclasses.replace(model, compute=WAYS[way])
    hidden_other, gradient_other = hidden_and_gradient(other, parameters, *inputs_of(family))
    np.testing.assert_allclose(hidden_other, hidden, atol=2e-5)
    assert_trees_close(gradient_other, gradient, 1e-4)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_initial_values_do_not_depend_on_the_way_of_computing():
    model = Model(config_of("decoder", num_layers=2))
    drawn = [
        jax.jit(lambda c=compute: initialize(dataclasses.replace(model, compute=c), jax.random.key(3)))()
        for compute in (PLAIN, ComputeConfig(scan_layers=True, remat="full"))
    ]
    for one, other in zip(*map(jax.tree.leaves, drawn), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    kernel = np.asarray(drawn[0]["trunk"]["body"]["stack"]["layers"]["block_0"]["attention"]["query"]["kernel"])
    assert abs(kernel.std() / model.config.initializer_range - 1) < 0.1


def test_scores_begin_equally_small_whatever_their_scale():
    """T5 has no scale, so that its first queries must be smaller by what the scale would be."""
    config = ModelConfig(vocab_size=64, embed_dim=64, num_layers=1, num_heads=4, mlp_dim=32, initializer_range=0.05)
    spreads = []
    for scale in (None, 1.0):
        model = Model(dataclasses.replace(config, attention_scale=scale))
        parameters = jax.jit(lambda model=model: initialize(model, jax.random.key(0)))()
        attention = parameters["trunk"]["body"]["stack"]["layers"]["block_0"]["attention"]
        scores = jnp.einsum("lehd,lfhd->lhef", attention["query"]["kernel"], attention["key"]["kernel"])
        spreads.append(float(scores.std()) * (config.width_of_head**-0.5 if scale is None else scale))
    assert spreads[1] == pytest.approx(spreads[0], rel=1e-3)


def test_layers_are_drawn_apart():
    model = Model(config_of("encoder", num_layers=2, windows=()))
    parameters = jax.jit(lambda: initialize(model, jax.random.key(0)))()
    kernels = parameters["trunk"]["body"]["stack"]["layers"]["block_0"]["feed_forward"]["input"]["kernel"]
    one, other = np.asarray(kernels)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("windows", [(0, 2), (2, 0), pytest.param((0, 0, 3), marks=pytest.mark.slow)])
def test_a_pattern_that_does_not_divide_the_layers_goes_on_in_order(windows):
    """Five layers computed as one stack, and as five models of one layer each, one after the other."""
    config = config_of("encoder", num_layers=5, windows=windows)
    model = Model(config)
    parameters = draw_parameters(model)
    ids = ids_of(2, 8)
    together = jax.jit(lambda p: model.apply({"params": p}, Sequences(ids)).hidden)(parameters)
    stack = parameters["trunk"]["body"]["stack"]
    groups = 5 // len(windows)
    x = None
    for layer in range(5):
        group, place = divmod(layer, len(windows))
        name, index = ("layers", group) if group < groups else ("last_layers", 0)
        block = jax.tree.map(lambda leaf, i=index: leaf[i : i + 1], stack[name][f"block_{place}"])
        x = one_layer(config, windows[place], block, parameters["trunk"], ids, x)
    np.testing.assert_allclose(x, together, atol=2e-5)


def one_layer(config, window, block, trunk, ids, x):
    """What a model of this block alone gives; its embeddings are replaced by `x` from the second layer on."""
    single = Model(
        dataclasses.replace(config, num_layers=1, windows=(window,), embedding_norm=x is None, vocab_size=VOCABULARY)
    )
    embeddings = dict(trunk["embeddings"])
    if x is not None:
        # Every place of every row is a word of its own, whose embedding is its hidden state.
        flat = jnp.asarray(x).reshape(-1, config.embed_dim)
        single = dataclasses.replace(single, config=dataclasses.replace(single.config, vocab_size=len(flat)))
        embeddings = {"tokens": {"table": flat}}
        ids = jnp.arange(len(flat), dtype=jnp.int32).reshape(ids.shape)
    parameters = {"trunk": {"embeddings": embeddings, "body": {"stack": {"layers": {"block_0": block}}}}}
    return jax.jit(lambda p: single.apply({"params": p}, Sequences(ids)).hidden)(parameters)


def packed_and_alone(lengths: tuple[int, ...], width: int):
    """The same sequences in one row, with restarting positions, and in a row each, padded."""
    texts = [ids_of(length, seed=10 + i) for i, length in enumerate(lengths)]
    row = {name: np.zeros((1, width), np.int32) for name in ("ids", "segments", "positions")}
    rows = {name: np.zeros((len(lengths), width), np.int32) for name in row}
    places = []
    start = 0
    for number, text in enumerate(texts):
        stop = start + len(text)
        row["ids"][0, start:stop], row["segments"][0, start:stop] = text, number + 1
        row["positions"][0, start:stop] = np.arange(len(text))
        rows["ids"][number, : len(text)], rows["segments"][number, : len(text)] = text, 1
        rows["positions"][number] = np.arange(width)
        places.append(slice(start, stop))
        start = stop
    made = [Sequences(*(jnp.asarray(x[name]) for name in ("ids", "segments", "positions"))) for x in (row, rows)]
    return *made, places


@pytest.mark.parametrize(
    ("family", "position"),
    [
        ("encoder", "learned"),
        pytest.param("encoder", "sinusoidal", marks=pytest.mark.slow),
        pytest.param("decoder", "alibi", marks=pytest.mark.slow),
        ("decoder", "rotary"),
        pytest.param("encoder_decoder", "relative_bias", marks=pytest.mark.slow),
    ],
)
def test_packed_sequences_are_what_they_are_alone(family, position):
    model = Model(config_of(family, num_layers=1, num_decoder_layers=1, windows=(3,), position=position))
    parameters = draw_parameters(model)
    lengths, source_lengths = (5, 3, 2), (2, 4, 3)
    row, rows, places = packed_and_alone(lengths, 12)
    inputs, inputs_alone = [row], [rows]
    if family == "encoder_decoder":
        source_row, source_rows, _ = packed_and_alone(source_lengths, 11)
        inputs, inputs_alone = [source_row, row], [source_rows, rows]
    hidden, gradient = hidden_and_gradient(model, parameters, *inputs, weights=row.segment_ids > 0)
    alone, gradient_alone = hidden_and_gradient(model, parameters, *inputs_alone, weights=rows.segment_ids > 0)
    for number, place in enumerate(places):
        np.testing.assert_allclose(hidden[0, place], alone[number, : lengths[number]], atol=2e-5)
    assert_trees_close(gradient, gradient_alone, 1e-4)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_positions_that_do_not_restart_make_a_difference(position):
    """The test above would see it: absolute positions matter, and rotary ones only by their differences."""
    model = Model(config_of("encoder", num_layers=1, windows=(), position=position))
    row, _, places = packed_and_alone((5, 3), 8)
    run = jax.jit(lambda sequences: model.apply({"params": draw_parameters(model)}, sequences).hidden)
    restarting, running = run(row), run(row.replace(positions=jnp.arange(8, dtype=jnp.int32)[None]))
    np.testing.assert_allclose(running[0, places[0]], restarting[0, places[0]], atol=1e-5)
    changed = float(jnp.abs(running[0, places[1]] - restarting[0, places[1]]).max())
    assert (changed < 1e-4) if position == "rotary" else (changed > 0.05)


def test_missing_positions_count_from_zero():
    model = Model(config_of("encoder", num_layers=1, windows=(), position="learned"))
    parameters, ids = draw_parameters(model), ids_of(2, 6)
    run = jax.jit(lambda sequences: model.apply({"params": parameters}, sequences).hidden)
    given = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32), (2, 6))
    np.testing.assert_array_equal(run(Sequences(ids)), run(Sequences(ids, positions=given)))
    assert float(jnp.abs(run(Sequences(ids)) - run(Sequences(ids, positions=given + 1))).max()) > 0.05


def test_low_precision_stays_near_float32():
    model = Model(config_of("decoder", num_layers=2))
    parameters = draw_parameters(model, spread=0.1)
    ids = Sequences(ids_of(2, 8))
    exact = jax.jit(lambda p: model.apply({"params": p}, ids).hidden)(parameters)
    low = dataclasses.replace(model, compute=ComputeConfig("bfloat16"))
    rounded = jax.jit(lambda p: low.apply({"params": p}, ids).hidden)(parameters)
    assert rounded.dtype == jnp.bfloat16
    error = jnp.linalg.norm(rounded.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert 1e-5 < float(error) < 0.03
