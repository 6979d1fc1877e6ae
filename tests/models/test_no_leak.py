"""No leak: what a token can influence is exactly what the masks allow.

The oracle is a graph: one layer lets a token influence those that see it, and several layers reach as far as paths do.
Each token is replaced in turn, and the positions whose hidden states change by a single bit must be those that the
graph reaches: no other, and none fewer.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawn import draw_parameters

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.model import Model
from jaxft.models.transformer import Sequences, Transformer

LENGTH, SOURCE_LENGTH, VOCABULARY = 9, 7, 50
PACKED = np.array([1, 1, 1, 2, 2, 2, 2, 0, 0])
PADDED = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0])
PREFIX = np.array([1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
NO_PREFIX = np.zeros(LENGTH, bool)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a batch of one row looks like and how the model is windowed."""

    segments: np.ndarray | None = None
    source_segments: np.ndarray | None = None
    prefix: np.ndarray | None = None
    windows: tuple[int, ...] = ()


CASES = {
    "whole": Case(),
    "windows": Case(windows=(1, 2)),
    # An encoder reads both ways, whatever is called a prefix.
    "packed": Case(PACKED, np.array([1, 1, 2, 2, 2, 0, 0]), prefix=NO_PREFIX),
    "padded": Case(PADDED, np.array([1, 1, 1, 1, 0, 0, 0]), prefix=NO_PREFIX),
    "prefix": Case(np.ones(LENGTH, int), np.ones(SOURCE_LENGTH, int), prefix=PREFIX),
    "prefix and packed": Case(PACKED, np.array([1, 1, 1, 2, 2, 2, 2]), prefix=PREFIX),
    "windows and packed": Case(PACKED, np.array([1, 1, 1, 1, 2, 2, 0]), prefix=PREFIX, windows=(1, 0)),
}
FIELDS = {
    "encoder": {"position": "learned", "norm_placement": "post", "embedding_norm": True},
    "decoder": {"position": "rotary", "norm": "rmsnorm", "gated": True, "num_kv_heads": 2},
    "disentangled": {
        "family": "encoder", "position": "disentangled", "norm_placement": "post", "relative_buckets": 4,
        "relative_max_distance": 16,
    },
    "transformer_xl": {"family": "encoder", "position": "transformer_xl", "norm_placement": "post"},
    "encoder_decoder": {"position": "relative_bias", "norm": "rmsnorm", "num_decoder_layers": 3},
}  # fmt: skip


def visible(segments, length: int, window: int = 0, causal: bool = False, prefix=None) -> np.ndarray:
    """bool `(query, key)`: who sees whom in one layer, each query itself included for its residual."""
    see = np.zeros((length, length), bool)
    for query in range(length):
        for key in range(length):
            later = causal and key > query and not (prefix is not None and prefix[key])
            far = window and abs(key - query) > window
            apart = segments is not None and (segments[query] != segments[key] or segments[query] == 0)
            see[query, key] = not (later or far or apart)
    return see | np.eye(length, dtype=bool)


def reach(case: Case, segments, length: int, layers: int, causal: bool) -> list[np.ndarray]:
    """What each layer sees."""
    windows = [case.windows[i % len(case.windows)] if case.windows else 0 for i in range(layers)]
    return [visible(segments, length, window, causal, case.prefix if causal else None) for window in windows]


def influence(case: Case, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """bool `(length, length)` and `(length, source length)`: which hidden state depends on which token."""
    causal = config.family != "encoder"
    crossed = np.ones((LENGTH, SOURCE_LENGTH), bool)
    if case.source_segments is not None:
        crossed = (case.segments[:, None] == case.source_segments[None]) & (case.segments[:, None] > 0)
    encoded = np.eye(SOURCE_LENGTH, dtype=bool)
    for see in reach(case, case.source_segments, SOURCE_LENGTH, config.num_layers, causal=False):
        encoded = see @ encoded
    own, source = np.eye(LENGTH, dtype=bool), np.zeros((LENGTH, SOURCE_LENGTH), bool)
    layers = config.decoder_layers if config.family == "encoder_decoder" else config.num_layers
    for see in reach(case, case.segments, LENGTH, layers, causal):
        own, source = see @ own, see @ source | crossed @ encoded
    return own, source


def sequences_of(ids, segments, prefix) -> Sequences:
    """One row; positions restart with each segment."""
    if segments is None:
        return Sequences(ids[None], prefix=None if prefix is None else prefix[None])
    starts = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])
    places = jnp.arange(len(ids))
    positions = places - jax.lax.cummax(jnp.where(starts, places, 0))
    return Sequences(ids[None], segments[None], positions[None], prefix=None if prefix is None else prefix[None])


def replaced(ids: np.ndarray, place: int) -> np.ndarray:
    out = ids.copy()
    out[place] = (out[place] + 7) % VOCABULARY
    return out


def config_of(family: str, windows: tuple[int, ...]) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY,
        embed_dim=16,
        num_layers=2,
        num_heads=4,
        mlp_dim=24,
        max_length=16,
        windows=windows,
        **{"family": family, **FIELDS[family]},
    )


@functools.cache
def hidden_states(family: str, windows: tuple[int, ...], kernel: str):
    """A compiled function of a row's and its source's ids, segments and prefix to the row's hidden states."""
    model = Model(config_of(family, windows), compute=ComputeConfig(attention=kernel))
    parameters = draw_parameters(model)

    @jax.jit
    def hidden(ids, source, segments, source_segments, prefix):
        own = sequences_of(ids, segments, prefix)
        if family != "encoder_decoder":
            return model.apply({"params": parameters}, own).hidden[0]
        return model.apply({"params": parameters}, sequences_of(source, source_segments, None), own).hidden[0]

    return hidden


@pytest.mark.parametrize("kernel", [pytest.param("reference", marks=pytest.mark.slow), "xla"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FIELDS)
def test_a_token_changes_what_sees_it_and_nothing_else(family, name, kernel):
    case = CASES[name]
    # Distinct ids, so that no replacement is without effect by chance.
    generator = np.random.default_rng(0)
    ids, source = (generator.permutation(VOCABULARY)[:length].astype(np.int32) for length in (LENGTH, SOURCE_LENGTH))
    compiled = hidden_states(family, case.windows, kernel)

    def hidden(ids, source) -> np.ndarray:
        return np.asarray(compiled(ids, source, case.segments, case.source_segments, case.prefix))

    before = hidden(ids, source)
    of_own, of_source = influence(case, config_of(family, case.windows))
    for place in range(LENGTH):
        changed = (hidden(replaced(ids, place), source) != before).any(-1)
        np.testing.assert_array_equal(changed, of_own[:, place], f"token {place} replaced")
    for place in range(SOURCE_LENGTH if family == "encoder_decoder" else 0):
        changed = (hidden(ids, replaced(source, place)) != before).any(-1)
        np.testing.assert_array_equal(changed, of_source[:, place], f"source token {place} replaced")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FIELDS)
def test_the_oracle_forbids_and_allows_something(family, name):
    """Otherwise the test above would say nothing."""
    own, source = influence(CASES[name], config_of(family, CASES[name].windows))
    assert (own & ~np.eye(LENGTH, dtype=bool)).any()
    # One whole sequence is what an encoder may read everywhere, and a decoder too of its source.
    whole = name in ("whole", "prefix")
    assert own.all() == (config_of(family, ()).family == "encoder" and whole)
    if family == "encoder_decoder":
        assert source.any() and source.all() == (whole or name == "windows")


def test_a_decoder_turned_encoder_reads_both_ways():
    config = config_of("decoder", ())
    both_ways = dataclasses.replace(config, bidirectional=True)
    parameters = draw_parameters(Model(config))["trunk"]
    ids = np.random.default_rng(0).integers(0, VOCABULARY, LENGTH).astype(np.int32)
    # As the family says, as one batch says, and as the model says, which a causal objective overrides.
    for model, causal, sees in (
        (config, None, False),
        (config, False, True),
        (both_ways, None, True),
        (both_ways, True, False),
    ):
        run = jax.jit(
            lambda ids, model=model, causal=causal: Transformer(model).apply(
                {"params": parameters}, Sequences(ids[None], causal=causal)
            )[0]
        )
        changed = np.asarray(run(ids) != run(replaced(ids, LENGTH - 1))).any(-1)
        np.testing.assert_array_equal(changed, [sees] * (LENGTH - 1) + [True])
