"""What cached decoding, drafting, contrastive search and scores must equal: whole passes without a cache."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from support.drawn import draw_parameters

from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.decoder import Decoder, Prompts
from jaxft.generation.generator import Generator
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.models.transformer import Sequences

VOCABULARY, LENGTH = 13, 12
_FIELDS = {"embed_dim": 16, "num_layers": 3, "num_heads": 4, "mlp_dim": 24, "max_length": 32, "vocab_size": VOCABULARY}
KINDS = {
    "learned, windows": {"position": "learned", "windows": (3, 0), "position_offset": 2},
    "alibi, windows": {"position": "alibi", "windows": (3,), "num_kv_heads": 2},
    "sinusoidal": {"position": "sinusoidal", "norm_placement": "post"},
    "relative bias": {"position": "relative_bias", "relative_buckets": 8, "relative_max_distance": 9},
    "rotary, local base": {"position": "rotary", "windows": (0, 4), "local_rotary_base": 100.0, "num_kv_heads": 1},
    "rotary, shared layers": {"position": "rotary", "share_layers": True, "parallel_residual": True},
    "none": {"position": "none", "embedding_dim": 8, "embedding_projection": "first"},
    "encoder left to right": {"family": "encoder", "position": "learned", "token_types": 2, "embedding_norm": True},
    "encoder-decoder": {"family": "encoder_decoder", "position": "relative_bias", "num_decoder_layers": 2},
}


def make_model(scan_layers: bool = False, **fields) -> Model:
    config = ModelConfig(**({"family": "decoder"} | _FIELDS | fields))
    return Model(config, (("causal_lm", HeadConfig("causal_lm")),), ComputeConfig(scan_layers=scan_layers))


def drawn_ids(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("undone", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_cache_changes_no_logits(kind, undone):
    """Ragged prompts, then steps of one token and, where tokens may be taken back, steps of two of which one stays."""
    model = make_model(scan_layers=undone == 2, **KINDS[kind])
    decoder, parameters = Decoder(model, "causal_lm"), draw_parameters(model)
    ids, lengths = drawn_ids(3, LENGTH), np.asarray([2, 5, 7], np.int32)
    source = (drawn_ids(3, 6, seed=1), np.asarray([6, 3, 1], np.int32)) if decoder.has_encoder else (None, None)
    whole = Prompts(ids, np.full(3, LENGTH, np.int32), *source)
    expected = _all_logits(decoder, parameters, whole)
    prompts = np.where(np.arange(8) < lengths[:, None], ids[:, :8], 12)
    step, cache = jax.jit(decoder.start, static_argnums=(2, 3))(
        parameters, Prompts(prompts, lengths, *source), 16, undone
    )
    np.testing.assert_allclose(step.logits[:, 0], expected[np.arange(3), lengths - 1], atol=1e-4)
    advance = jax.jit(lambda cache, tokens, moves: decoder.advance(parameters, cache, tokens, moves))
    for place in range(4):
        at = lengths + place
        if undone:
            _, cache = advance(cache, (ids[np.arange(3), at] + 1) % VOCABULARY, jnp.ones(3, bool))
            _, cache = advance(cache, ids[np.arange(3), at], jnp.ones(3, bool))
            cache = cache.replace(lengths=cache.lengths - 2)
        logits, cache = advance(cache, ids[np.arange(3), at], jnp.ones(3, bool))
        np.testing.assert_allclose(logits, expected[np.arange(3), at], atol=1e-4, err_msg=f"token {place}")


def _all_logits(decoder: Decoder, parameters, prompts: Prompts) -> np.ndarray:
    """Of a pass over whole rows without a cache, `(batch, length, vocab)`."""
    read, source = Sequences(prompts.token_ids, causal=None if decoder.has_encoder else True), prompts.sources()
    if source is not None:
        read = read.replace(segment_ids=jnp.ones_like(prompts.token_ids))
    inputs = (read,) if source is None else (source, read)
    return np.asarray(jax.jit(lambda: decoder.model.apply({"params": parameters}, *inputs, head="causal_lm").logits)())


SPECIAL = SpecialTokens(end=(0,), pad=0)


@pytest.fixture(scope="module")
def written():
    """A decoder with a window and its parameters."""
    model = make_model(**KINDS["learned, windows"])
    return model, draw_parameters(model)


@functools.partial(jax.jit, static_argnums=0)
def _passed(model: Model, parameters, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    output = model.apply({"params": parameters}, Sequences(ids), head="causal_lm")
    return output.hidden, output.logits


def whole_pass(model: Model, parameters, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and logits of rows of one length, without a cache.

    Rows of every length share a program: what is behind them is not seen by a model that reads from left to right.
    """
    ids = np.pad(rows, ((0, 0), (0, LENGTH - rows.shape[1]))).astype(np.int32)
    hidden, logits = _passed(model, parameters, ids)
    return np.asarray(hidden)[:, : rows.shape[1]], np.asarray(logits)[:, : rows.shape[1]]


def next_distribution(model: Model, parameters, ids: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """By a whole pass, float64 `(vocab,)`."""
    logits = whole_pass(model, parameters, ids[None])[1][0, -1] + bias
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return shifted / shifted.sum()


def _pairs_distribution(
    model: Model, parameters, prompt: np.ndarray, bias: np.ndarray | float = 0.0
) -> dict[tuple[int, ...], float]:
    """Exact chances of the first two tokens; of the end token alone where it comes first."""
    first = next_distribution(model, parameters, prompt, bias)
    longer = np.concatenate([np.tile(prompt, (VOCABULARY, 1)), np.arange(VOCABULARY)[:, None]], axis=1)
    logits = whole_pass(model, parameters, longer)[1][:, -1]
    second = special.softmax(logits.astype(np.float64) + bias, axis=-1)
    chances = {(a, b): first[a] * second[a, b] for a in range(1, VOCABULARY) for b in range(VOCABULARY)}
    return chances | {(0,): first[0]}


def _check_distribution(chances: dict[tuple[int, ...], float], texts: list[tuple[int, ...]]) -> float:
    """The p-value of a chi-square test, rare outcomes taken together."""
    counts = dict.fromkeys(chances, 0)
    for text in texts:
        counts[text] += 1
    often = [text for text, chance in chances.items() if chance * len(texts) >= 8]
    observed = np.asarray([counts[text] for text in often] + [len(texts) - sum(counts[text] for text in often)])
    expected = np.asarray([chances[text] for text in often])
    expected = np.append(expected, 1 - expected.sum()) * len(texts)
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


PROMPT = np.asarray([3, 7, 1, 9, 9, 2], np.int32)
DRAWS = GenerationConfig(max_new_tokens=2, temperature=1.0, num_return_sequences=4096)


def _texts(generator: Generator, parameters, config: GenerationConfig) -> list[tuple[int, ...]]:
    return [tuple(one.token_ids.tolist()) for one in generator.generate(parameters, [PROMPT], config)]


def test_texts_are_drawn_as_the_model_says(written):
    model, parameters = written
    chances = _pairs_distribution(model, parameters, PROMPT)
    texts = _texts(Generator(model, SPECIAL), parameters, DRAWS)
    assert _check_distribution(chances, texts) > 1e-3
    # A temperature of 0.8 would show.
    cold = _texts(Generator(model, SPECIAL), parameters, dataclasses.replace(DRAWS, temperature=0.8))
    assert _check_distribution(chances, cold) < 1e-6


@pytest.fixture(scope="module")
def draft():
    model = make_model(num_layers=1, **{"position": "rotary", "windows": (3,)})
    return model, draw_parameters(model, seed=1, spread=0.2)


def test_drafted_texts_are_drawn_as_the_model_says(written, draft):
    model, parameters = written
    texts = _texts(Generator(model, SPECIAL, draft=draft), parameters, dataclasses.replace(DRAWS, draft_tokens=2))
    assert _check_distribution(_pairs_distribution(model, parameters, PROMPT), texts) > 1e-3
    assert _check_distribution(_pairs_distribution(*draft, PROMPT), texts) < 1e-6


@pytest.mark.slow
def test_drafted_texts_keep_to_rules_that_hold_whatever_was_written(written, draft):
    model, parameters = written
    bias = np.zeros(VOCABULARY)
    bias[[4, 9]], bias[5] = -np.inf, 1.5
    special = dataclasses.replace(SPECIAL, suppressed=(4, 9))
    config = dataclasses.replace(DRAWS, draft_tokens=2, logit_bias=((5, 1.5),))
    texts = _texts(Generator(model, special, draft=draft), parameters, config)
    assert not {4, 9} & {token for text in texts for token in text}
    assert _check_distribution(_pairs_distribution(model, parameters, PROMPT, bias), texts) > 1e-3


@pytest.mark.slow
def test_greedy_texts_are_the_same_with_a_draft(written, draft):
    """Long ones, past windows; the draft is the model itself, too, so that whole rounds are accepted."""
    model, parameters = written
    prompts = [drawn_ids(length, seed=length) for length in (2, 5, 9)]
    config = GenerationConfig(max_new_tokens=20, draft_tokens=3)
    plain = Generator(model, SpecialTokens(end=(), pad=0)).generate(parameters, prompts, config)
    for helper in (draft, written):
        drafted = Generator(model, SpecialTokens(end=(), pad=0), draft=helper).generate(parameters, prompts, config)
        for one, other in zip(plain, drafted, strict=True):
            np.testing.assert_array_equal(one.token_ids, other.token_ids)
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)


def test_contrastive_search_as_the_paper_says(written):
    """Against the definition, with a whole pass for every candidate."""
    model, parameters = written
    alpha, k, text = 0.6, 4, PROMPT

    for _ in range(6):
        chances = next_distribution(model, parameters, text)
        candidates = np.argsort(-chances)[:k]
        longer = np.concatenate([np.tile(text, (k, 1)), candidates[:, None]], axis=1)
        hidden = whole_pass(model, parameters, longer)[0]
        hidden = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
        scores = {
            token: (1 - alpha) * chances[token] - alpha * (states[:-1] @ states[-1]).max()
            for token, states in zip(candidates, hidden, strict=True)
        }
        text = np.append(text, max(scores, key=scores.get)).astype(np.int32)
    generator = Generator(model, SpecialTokens(end=(), pad=0))
    config = GenerationConfig(max_new_tokens=6, contrastive_alpha=alpha, top_k=k)
    found = generator.generate(parameters, [PROMPT[:3], PROMPT], config)
    np.testing.assert_array_equal(found[1].token_ids, text[len(PROMPT) :])


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(written):
    """Neither greedy nor drawn texts, nor their chances, whatever else is padded to the same length."""
    model, parameters = written
    prompts = [drawn_ids(length, seed=length) for length in (2, 9, 4, 6, 3)]
    config = GenerationConfig(max_new_tokens=9, temperature=0.9, top_p=0.9, seed=4)
    together = Generator(model, SPECIAL).generate(parameters, prompts, config)
    for many in (1, 2):
        parts = Generator(model, SPECIAL, batch_size=many).generate(parameters, prompts, config)
        for one, other in zip(together, parts, strict=True):
            assert (one.token_ids.tolist(), one.finished_by) == (other.token_ids.tolist(), other.finished_by)
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_the_chance_of_a_text_is_that_of_its_score(written):
    model, parameters = written
    generator = Generator(model, SPECIAL)
    prompts = [drawn_ids(length, seed=length) for length in (4, 7)]
    for config in (GenerationConfig(max_new_tokens=8), GenerationConfig(max_new_tokens=8, beams=3)):
        for one in generator.generate(parameters, prompts, config):
            (score,) = generator.score(parameters, [prompts[one.prompt]], [one.token_ids])
            assert score.log_probability == pytest.approx(one.log_probability, abs=1e-4)
            assert config.beams > 1 or score.is_greedy


@pytest.mark.parametrize("kind", ["learned, windows", "encoder-decoder"])
def test_scores_are_those_of_a_whole_pass(kind):
    model = make_model(**KINDS[kind])
    parameters = draw_parameters(model)
    special = dataclasses.replace(SPECIAL, start=(5,))
    decoder = Decoder(model, "causal_lm")
    contexts = [drawn_ids(length, seed=length) for length in (4, 2, 6)]
    continuations = [drawn_ids(length, seed=9 + length) for length in (3, 1, 5)]
    scores = Generator(model, special, batch_size=2).score(parameters, contexts, continuations)
    for context, continuation, score in zip(contexts, continuations, scores, strict=True):
        start = np.asarray([5], np.int32) if decoder.has_encoder else context
        whole = np.concatenate([start, continuation])[None]
        source = (context[None], np.asarray([len(context)])) if decoder.has_encoder else (None, None)
        logits = _all_logits(decoder, parameters, Prompts(whole, np.asarray([whole.shape[1]]), *source))
        logs = np.asarray(jax.nn.log_softmax(logits[0, len(start) - 1 : -1]))
        np.testing.assert_allclose(score.log_probabilities, logs[np.arange(len(continuation)), continuation], atol=1e-4)
        np.testing.assert_array_equal(score.greedy, logs.argmax(-1) == continuation)
