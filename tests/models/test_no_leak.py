"""No leak: what a token can influence is exactly what the masks allow.

The oracle is a graph: one layer lets a token influence those that see it, and several layers reach as far as paths do. Each
token is replaced in turn, and the positions whose hidden states change by a single bit must be those that the graph reaches: no other, and
none fewer.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.model import Model, initialize
from jaxft.models.transformer import Sequences

LENGTH, SOURCE_LENGTH, VOCABULARY = 9, 7, 50
PACKED = np.array([1, 1, 1, 2, 2, 2, 2, 0, 0])
PADDED = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0])
PREFIX = np.array([1, 1, 0, 1, 1, 0, 0, 0, 0], bool)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a batch of one row looks like and how the model is windowed."""

    segments: np.ndarray | None = None
    source_segments: np.ndarray | None = None
    prefix: np.ndarray | None = None
    windows: tuple[int, ...] = ()


CASES = {
    "whole": Case(),
    "packed": Case(PACKED, np.array([1, 1, 2, 2, 2, 0, 0])),
    "padded": Case(PADDED, np.array([1, 1, 1, 1, 0, 0, 0])),
    "windows": Case(windows=(1, 2)),
    "windows and packed": Case(PACKED, np.array([1, 1, 1, 1, 2, 2, 0]), windows=(1, 0)),
    "prefix": Case(prefix=PREFIX),
    "prefix and packed": Case(PACKED, np.array([1, 1, 1, 2, 2, 2, 2]), prefix=PREFIX),
}
FIELDS = {
    "encoder": {"position": "learned", "norm_placement": "post", "embedding_norm": True},
    "decoder": {"position": "rotary", "norm": "rmsnorm", "gated": True, "num_kv_heads": 2},
    "encoder_decoder": {"position": "relative_bias", "norm": "rmsnorm", "num_decoder_layers": 3},
}


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


def positions_of(segments, length: int):
    if segments is None:
        return None
    return np.array([sum(segments[:i] == segments[i]) for i in range(length)], np.int32)[None]


def sequences_of(ids, segments, prefix=None) -> Sequences:
    positions = positions_of(segments, len(ids))
    rows = [None if x is None else jnp.asarray(x)[None] for x in (segments, prefix)]
    return Sequences(jnp.asarray(ids)[None], rows[0], positions, prefix=rows[1])


def replaced(ids: np.ndarray, place: int) -> np.ndarray:
    out = ids.copy()
    out[place] = (out[place] + 7) % VOCABULARY
    return out


@pytest.mark.parametrize("kernel", ["reference", "xla"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
def test_a_token_changes_what_sees_it_and_nothing_else(family, name, kernel):
    case = CASES[name]
    if family == "encoder" and case.prefix is not None:
        pytest.skip("an encoder reads both ways and has no prefix")
    config = ModelConfig(
        family=family, vocab_size=VOCABULARY, embed_dim=16, num_layers=2, num_heads=4, mlp_dim=24, max_length=16,
        windows=case.windows, initializer_range=0.3, **FIELDS[family],
    )  # fmt: skip
    model = Model(config, compute=ComputeConfig(attention=kernel))
    parameters = jax.jit(lambda: initialize(model, jax.random.key(1)))()
    # Random ids, distinct in each sequence, so that no replacement is without effect by chance.
    generator = np.random.default_rng(0)
    ids = generator.permutation(VOCABULARY)[:LENGTH].astype(np.int32)
    source = generator.permutation(VOCABULARY)[:SOURCE_LENGTH].astype(np.int32)

    @jax.jit
    def hidden(ids, source):
        own = sequences_of(ids, case.segments, case.prefix)
        if family != "encoder_decoder":
            return model.apply({"params": parameters}, own).hidden[0]
        given = sequences_of(source, case.source_segments)
        return model.apply({"params": parameters}, given, own).hidden[0]

    before = np.asarray(hidden(ids, source))
    of_own, of_source = influence(case, config)
    for place in range(LENGTH):
        changed = (np.asarray(hidden(replaced(ids, place), source)) != before).any(-1)
        np.testing.assert_array_equal(changed, of_own[:, place], f"token {place} replaced")
    for place in range(SOURCE_LENGTH if family == "encoder_decoder" else 0):
        changed = (np.asarray(hidden(ids, replaced(source, place))) != before).any(-1)
        np.testing.assert_array_equal(changed, of_source[:, place], f"source token {place} replaced")


def test_the_oracle_forbids_and_allows_something_in_every_case():
    """Otherwise the test above would say nothing."""
    for case in CASES.values():
        for family, fields in FIELDS.items():
            own, source = influence(case, ModelConfig(family=family, num_layers=2, embed_dim=16, num_heads=4, **fields))
            others = own & ~np.eye(LENGTH, dtype=bool)
            assert others.any()
            if family != "encoder" or case != CASES["whole"]:
                assert not own.all()
            if family == "encoder_decoder" and case.segments is not None:
                assert source.any() and not source.all()


def test_a_decoder_turned_encoder_reads_both_ways():
    config = ModelConfig(family="decoder", vocab_size=VOCABULARY, embed_dim=16, num_layers=1, num_heads=2, mlp_dim=24, initializer_range=0.3)
    from jaxft.models.transformer import Transformer

    causal, both = Transformer(config), Transformer(config, causal=False)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (1, LENGTH)), jnp.int32)
    variables = jax.jit(causal.init)(jax.random.key(0), Sequences(ids))
    last = ids.at[0, -1].add(1) % VOCABULARY
    for trunk, sees in ((causal, False), (both, True)):
        run = jax.jit(lambda ids, trunk=trunk: trunk.apply(variables, Sequences(ids)))
        changed = (run(ids) != run(last)).any(-1)[0]
        np.testing.assert_array_equal(changed, [sees] * (LENGTH - 1) + [True])
