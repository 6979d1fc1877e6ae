"""Functions that say which tokens may come, and beginnings that are forced."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from jaxft.errors import InvalidField, RecipeError
from jaxft.generation.config import GenerationConfig
from jaxft.workflows.inference.generate import generate

DRAWN = GenerationConfig(max_new_tokens=6, temperature=1.0, num_return_sequences=4, seed=2)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "num_return_sequences": 3}, {"beams": 3}])
def test_a_tree_of_names_is_followed(writer, options):
    """Each prompt has its own tree; what is written is one of its names and then the end."""
    tokenizer, end = writer.generator.tokenizer, writer.generator.special.end[0]
    names = [["the cat", "the mat"], ["yes", "no", "perhaps"]]
    trees = [[[*ids.tolist(), end] for ids in tokenizer.encode(own)] for own in names]

    def allowed(prompt: int, token_ids: np.ndarray) -> list[int]:
        begun = token_ids.tolist()
        return [ids[len(begun)] for ids in trees[prompt] if ids[: len(begun)] == begun]

    found = generate(writer, ["it is", "Is it? "], allowed, max_new_tokens=12, **options)
    for one in found:
        assert one.text in names[one.prompt] and one.finished_by == "end"


def test_the_likeliest_of_what_is_allowed_is_taken(writer):
    prompts = writer.encode(["the cat"])
    rng = np.random.default_rng(0)
    sets = rng.choice(np.arange(5, 300), (6, 12), replace=False)
    (found,) = writer.generator.generate(
        writer.parameters, prompts, GenerationConfig(max_new_tokens=6), lambda prompt, ids: sets[len(ids)]
    )
    for place, token in enumerate(found.token_ids):
        before = np.concatenate([prompts[0], found.token_ids[:place]])
        scores = writer.generator.score(writer.parameters, [before] * 12, [np.asarray([t]) for t in sets[place]])
        assert token == sets[place][np.argmax([one.log_probability for one in scores])]


def test_what_a_function_does_wrong_is_said(writer):
    for allowed, words in (
        (lambda prompt, ids: [], "at least one"),
        (lambda prompt, ids: [10**6], "outside of the vocabulary"),
    ):
        with pytest.raises(RecipeError, match=words):
            generate(writer, "the cat", allowed, max_new_tokens=4)
    with pytest.raises(ZeroDivisionError):
        generate(writer, "the cat", lambda prompt, ids: [1 // 0], max_new_tokens=4)


def test_a_beginning_is_written_and_the_rest_follows_from_it(writer):
    (ids,) = writer.generator.tokenizer.encode(["yes, no"])
    config = GenerationConfig(max_new_tokens=len(ids) + 4, prefix="yes, no")
    (found,) = writer.texts(["the cat"], config)
    assert found.text.startswith("yes, no")
    joined = np.concatenate([writer.encode(["the cat"])[0], ids])
    (rest,) = writer.generator.generate(writer.parameters, [joined], GenerationConfig(max_new_tokens=4))
    np.testing.assert_array_equal(found.token_ids, np.concatenate([ids, rest.token_ids]))
    (score,) = writer.generator.score(writer.parameters, writer.encode(["the cat"]), [found.token_ids])
    assert found.log_probability == pytest.approx(score.log_probability, abs=1e-3)
    (best, _) = writer.texts(["the cat"], dataclasses.replace(config, beams=2, num_return_sequences=2))
    assert best.text.startswith("yes, no")


def test_impossible_beginnings_and_numbers(writer):
    with pytest.raises(RecipeError, match="max_new_tokens is 1"):
        writer.texts(["the cat"], GenerationConfig(max_new_tokens=1, prefix="yes, no"))
    with pytest.raises(InvalidField, match="how a text begins itself"):
        GenerationConfig(prefix="a", regex="a+")
    for name, value in (("temperature", math.inf), ("presence_penalty", math.nan), ("seed", 2**32)):
        with pytest.raises(InvalidField, match=name):
            GenerationConfig(**{name: value})


def test_prompts_have_wishes_of_their_own(writer):
    """Seeds, lengths and stop texts of texts that share a batch; one that nobody waits for ends early."""
    from jaxft.generation.config import PromptOptions

    generator, prompts = writer.generator, writer.encode(["the cat", "it sat", "the mat"])
    config = GenerationConfig(max_new_tokens=20, temperature=1.2)
    alone = [dataclasses.replace(config, seed=7), dataclasses.replace(config, seed=8, max_new_tokens=5)]
    expected = [generator.generate(writer.parameters, [prompts[i]], own)[0] for i, own in enumerate(alone)]
    looks = []

    def is_withdrawn() -> bool:
        looks.append(None)
        return len(looks) > 4

    prompt_options = [
        *map(PromptOptions.of, alone),
        dataclasses.replace(PromptOptions.of(config), is_withdrawn=is_withdrawn),
    ]
    texts, ended = {}, {}
    for pieces in generator.stream(writer.parameters, prompts, config, 2, prompt_options):
        for piece in pieces:
            texts[piece.prompt] = texts.get(piece.prompt, "") + piece.text
            ended[piece.prompt] = piece.finished_by
    assert [texts[0], texts[1]] == [one.text for one in expected]
    assert ended[0] and ended[1] and ended[2] is None
