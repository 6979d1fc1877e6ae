"""What users of a generator rely on: texts and what ended them, pieces as they come, and clear refusals."""

from __future__ import annotations

import dataclasses
import re

import jax
import numpy as np
import pytest
from support.drawn import draw_parameters

from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.generation import sampling
from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.generation.prompts import bucket
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model
from jaxft.workflows.inference.generate import make_config

CONFIG = GenerationConfig(max_new_tokens=24, temperature=1.3, seed=3)
PROMPTS = ["the cat", "it sat on the mat"]


def test_pieces_are_the_text(writer):
    """Token by token and some at a time, with characters of several bytes that arrive in parts."""
    generator, prompts = writer.generator, writer.encode(PROMPTS)
    config = dataclasses.replace(CONFIG, num_return_sequences=4)
    whole = generator.generate(writer.parameters, prompts, config)
    for every in (1, 5):
        texts, ids, ended = {}, {}, {}
        for pieces in generator.stream(writer.parameters, prompts, config, every):
            for piece in pieces:
                row = piece.prompt, piece.copy
                assert row not in ended, "a piece after the end"
                assert len(piece.token_ids) <= every + 1
                texts[row] = texts.get(row, "") + piece.text
                ids[row] = [*ids.get(row, []), *piece.token_ids]
                if piece.finished_by:
                    ended[row] = piece.finished_by
        rows = [(prompt, copy) for prompt in range(2) for copy in range(4)]
        assert [texts[row] for row in rows] == [one.text for one in whole]
        assert [ids[row] for row in rows] == [one.token_ids.tolist() for one in whole]
        assert [ended[row] for row in rows] == [one.finished_by for one in whole]


def test_a_stop_text_ends_a_text_before_it(writer):
    """One that begins within a token and reaches over others, found wherever it is."""
    (free,) = writer.texts(PROMPTS[:1], CONFIG)
    for begin in (3, 9, len(free.text) - 4):
        stop = free.text[begin : begin + 3]
        config = dataclasses.replace(CONFIG, stop=("never there", stop))
        (stopped,) = writer.texts(PROMPTS[:1], config)
        assert stopped.text == free.text[: free.text.index(stop)] and stopped.finished_by == "stop"
        count = len(stopped.token_ids)
        np.testing.assert_array_equal(stopped.token_ids, free.token_ids[:count])
        decode = writer.generator.tokenizer.decode
        assert stop in decode(stopped.token_ids) and stop not in decode(stopped.token_ids[:-1])
        (score,) = writer.generator.score(writer.parameters, writer.encode(PROMPTS[:1]), [stopped.token_ids])
        assert stopped.log_probability == pytest.approx(score.log_probability, abs=1e-3)
        streamed = writer.generator.stream(writer.parameters, writer.encode(PROMPTS[:1]), config, 1)
        assert "".join(piece.text for pieces in streamed for piece in pieces) == stopped.text


def test_what_ends_a_text(writer):
    generator, prompts = writer.generator, writer.encode(PROMPTS)
    (first, _) = generator.generate(writer.parameters, prompts, dataclasses.replace(CONFIG, max_new_tokens=6))
    assert first.finished_by == "length" and len(first.token_ids) == 6
    ends = dataclasses.replace(CONFIG, stop_token_ids=(int(first.token_ids[3]),))
    (ended, _) = generator.generate(writer.parameters, prompts, ends)
    assert ended.finished_by == "end" and len(ended.token_ids) == 1 + first.token_ids.tolist().index(
        ended.token_ids[-1]
    )
    long = np.tile(prompts[0], 64)[:60]
    (cut,) = generator.generate(writer.parameters, [long], GenerationConfig(max_new_tokens=9))
    assert cut.finished_by == "context" and len(cut.token_ids) == 4


@pytest.mark.parametrize(
    "prompts,options,error,said",
    [
        ([[]], {}, DataError, "prompt 1 is empty"),
        ([[1], [1] * 64], {}, DataError, "prompt 2 has 64 tokens, the model's context is 64, which leaves no room"),
        ([[1, 4000]], {}, DataError, "token id 4000 is outside"),
        ([[-1]], {}, DataError, "token id -1 is outside"),
        ([[1]], {"stop_token_ids": (9999,)}, RecipeError, "stop_token_ids: 9999"),
        ([[1] * 60], {"regex": "[a-z]{90}", "max_new_tokens": 100}, DataError, "leaves 4 of the model's context of 64"),
    ],
)
def test_wrong_prompts(writer, prompts, options, error, said):
    with pytest.raises(error, match=re.escape(said)):
        arrays = [np.asarray(prompt, np.int32) for prompt in prompts]
        writer.generator.generate(writer.parameters, arrays, GenerationConfig(**options))


@pytest.mark.parametrize(
    "options,field",
    [
        ({"temperature": -0.5}, "temperature"), ({"top_p": 0.0}, "top_p"), ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"beams": 3, "temperature": 1.0}, "temperature"), ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"beams": 2, "num_return_sequences": 3}, "num_return_sequences"), ({"stop": ("",)}, "stop"),
        ({"contrastive_alpha": 0.5}, "top_k"), ({"regex": "a", "json_schema": "{}"}, "regex"),
        ({"early_stopping": "soon"}, "early_stopping"), ({"min_new_tokens": 200}, "min_new_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"), ({"min_p": 1.0}, "min_p"),
    ],
)  # fmt: skip
def test_impossible_options(options, field):
    with pytest.raises(InvalidField) as raised:
        GenerationConfig(**options)
    assert raised.value.field == field
    with pytest.raises(RecipeError, match=field):
        make_config(options)


@pytest.mark.parametrize(
    "fields,head,said",
    [
        ({"family": "encoder"}, HeadConfig("masked_lm"), "has masked_lm"),
        ({"family": "encoder"}, None, "has none"),
        ({"family": "encoder", "position": "disentangled"}, HeadConfig("causal_lm"), "disentangled positions"),
    ],
)
def test_models_that_can_not_write(fields, head, said):
    config = ModelConfig(vocab_size=9, embed_dim=8, num_layers=1, num_heads=2, mlp_dim=8, **fields)
    with pytest.raises(RecipeError, match=said):
        Generator(Model(config, () if head is None else ((head.kind, head),)), SpecialTokens(end=(0,)))


def test_a_draft_of_another_vocabulary_is_refused(writer):
    config = ModelConfig(family="decoder", vocab_size=9, embed_dim=8, num_layers=1, num_heads=2, mlp_dim=8)
    draft = Model(config, (("causal_lm", HeadConfig("causal_lm")),))
    with pytest.raises(RecipeError, match="vocabulary of 9"):
        Generator(writer.generator.decoder.model, SpecialTokens(end=(0,)), draft=(draft, draw_parameters(draft)))


def test_few_shapes_are_compiled():
    sizes = {bucket(length) for length in range(1, 2000)}
    assert len(sizes) < 16 and all(length <= bucket(length) <= max(16, 1.5 * length) for length in range(1, 2000))


# Of logits log([.4 .3 .2 .06 .04]) in another order.
CHANCES = np.asarray([0.06, 0.4, 0.04, 0.2, 0.3])


@pytest.mark.parametrize(
    "keep,expected",
    [
        (lambda x: sampling.keep_top_k(x, 2), {1, 4}),
        (lambda x: sampling.keep_top_k(x, 9), {0, 1, 2, 3, 4}),
        (lambda x: sampling.keep_top_p(x, 0.4), {1}),
        (lambda x: sampling.keep_top_p(x, 0.41), {1, 4}),
        (lambda x: sampling.keep_top_p(x, 0.95), {0, 1, 3, 4}),
        (lambda x: sampling.keep_top_p(x, 0.001), {1}),
        (lambda x: sampling.keep_min_p(x, 0.14), {0, 1, 3, 4}),
        # The entropy is 1.35, and -log of .3 and .2 are 1.20 and 1.61.
        (lambda x: sampling.keep_typical(x, 0.4), {3, 4}),
        (lambda x: sampling.keep_typical(x, 0.2), {4}),
    ],
)
def test_what_is_drawn_from(keep, expected):
    kept = np.asarray(keep(np.log(CHANCES, dtype=np.float32)[None]))[0]
    assert set(np.flatnonzero(np.isfinite(kept))) == expected
    np.testing.assert_allclose(kept[list(expected)], np.log(CHANCES)[list(expected)], rtol=1e-6)


def test_penalties_for_use():
    """Of tokens that were written, by hand: twice token 1, once token 3; what the prompt has does not count."""
    ids = np.asarray([[4, 4, 1, 3, 1, 0]], np.int32)
    counts = sampling.count_tokens(ids, np.asarray([[0, 0, 1, 1, 1, 0]], bool), 5)
    np.testing.assert_array_equal(counts, [[0, 2, 0, 1, 0]])
    found = sampling.penalize_use(np.zeros((1, 5), np.float32), counts, 0.5, 0.25)
    np.testing.assert_allclose(found, [[0, -1.0, 0, -0.75, 0]])


def test_repeated_sequences_are_found_in_the_row_alone():
    """Against a search in Python, with padding that would repeat."""
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 3, (40, 10)).astype(np.int32), rng.integers(1, 11, 40)
    for n in (1, 2, 3):
        found = np.isinf(sampling.forbid_repeated_ngrams(jax.numpy.zeros((40, 3)), ids, lengths, n))
        for row, length, forbidden in zip(ids.tolist(), lengths, found, strict=True):
            text = row[:length]
            for token in range(3):
                end = [*text, token][-n:]
                there = [text[i : i + n] for i in range(length - n + 1)]
                assert forbidden[token] == (len(end) == n and end in there)
