"""Log-probabilities as OpenAI's client gets them: those of the model itself, whole and piece by piece."""

from __future__ import annotations

import jax
import numpy as np
import openai
import pytest

from jaxft.generation.config import GenerationConfig
from jaxft.models.model import apply_model
from jaxft.models.transformer import Sequences


@pytest.fixture(scope="module")
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address('decoder')}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def by_model(served):
    """Log-probabilities of all tokens after each of some ids, from one pass over all of them."""
    model = served("decoder")
    decoder = model.generator.decoder

    def logs(token_ids) -> np.ndarray:
        ids = np.asarray([token_ids], np.int32)
        output = apply_model(
            decoder.model, model.parameters, Sequences(ids, np.ones_like(ids), causal=True), None, decoder.head, None
        )
        return np.asarray(jax.nn.log_softmax(output.logits))[0]

    return logs


def test_completions_tell_the_likeliest(client, served, by_model):
    """Beside what is written, from a temperature that changes nothing of them; texts, bytes and offsets of tokens."""
    generator = served("decoder").generator
    asked = {"model": "decoder", "prompt": "the cat", "max_tokens": 9, "temperature": 1.3, "seed": 2}
    (choice,) = client.completions.create(**asked, logprobs=3).choices
    found = choice.logprobs
    config = GenerationConfig(max_new_tokens=9, temperature=1.3, seed=2)
    (prompt,) = generator.encode(["the cat"])
    (written,) = generator.generate(served("decoder").parameters, [prompt], config)
    expected = by_model([*prompt, *written.token_ids])[len(prompt) - 1 : -1]
    np.testing.assert_allclose(found.token_logprobs, expected[np.arange(len(expected)), written.token_ids], atol=1e-4)
    for tops, logs, token in zip(found.top_logprobs, expected, found.tokens, strict=True):
        best = np.sort(logs)[::-1][:3]
        assert token in tops and len(tops) in (3, 4)
        np.testing.assert_allclose(sorted(tops.values(), reverse=True)[:3], best, atol=1e-4)
    assert found.text_offset[0] == 0 and found.text_offset == sorted(found.text_offset)
    events = list(client.completions.create(**asked, logprobs=3, stream=True))
    told = [event.choices[0].logprobs for event in events if event.choices]
    assert [token for one in told for token in one.tokens] == found.tokens
    assert [offset for one in told for offset in one.text_offset] == found.text_offset
    with pytest.raises(openai.BadRequestError, match="from 0 to 5"):
        client.completions.create(**asked, logprobs=6)


@pytest.mark.parametrize("is_ids", [False, True])
def test_an_echo_has_the_prompt_before_it(client, served, by_model, is_ids):
    """With its own log-probabilities, also where nothing is written; the first token of all has none."""
    generator = served("decoder").generator
    text = "it sat on é"
    (prompt,) = generator.encode([text])
    given = prompt.tolist() if is_ids else text
    logs = by_model(prompt)
    own = 0 if is_ids else len(generator.special.start)
    for count in (0, 3):
        asked = {"model": "decoder", "max_tokens": count, "temperature": 0, "echo": True, "logprobs": 2}
        answer = client.completions.create(prompt=[given, given], **asked)
        for choice in answer.choices:
            found = choice.logprobs
            expected = [None, *logs[np.arange(len(prompt) - 1), prompt[1:]].tolist()][own:]
            assert len(found.tokens) == len(prompt) - own + min(count, answer.usage.completion_tokens)
            assert found.token_logprobs[: len(expected)] == pytest.approx(expected, abs=1e-4)
            assert [top is None for top in found.top_logprobs] == [log is None for log in found.token_logprobs]
            if not is_ids:
                assert choice.text.startswith(text) and (choice.text == text) == (count == 0)
        assert (answer.usage.completion_tokens == 0) == (count == 0)
    events = list(client.completions.create(prompt=given, **asked, stream=True))
    assert "".join(event.choices[0].text for event in events if event.choices) == choice.text
    assert client.completions.create(model="decoder", prompt="a", max_tokens=2, echo=True).choices[0].text[0] == "a"


def test_conversations_tell_text_and_bytes(client, served):
    tokenizer = served("decoder").generator.tokenizer
    special = set(tokenizer.tokens(sorted(tokenizer.special_ids)))
    asked = {"model": "decoder", "messages": [{"role": "user", "content": "is it?"}], "max_tokens": 12, "seed": 4}
    (choice,) = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices
    content = choice.logprobs.content
    written = b"".join(bytes(one.bytes) for one in content if one.token not in special)
    assert choice.message.content == written.decode("utf-8", "replace")
    for one in content:
        assert one.token == bytes(one.bytes).decode("utf-8", "backslashreplace")
        best, second = one.top_logprobs
        assert best.logprob >= max(one.logprob, second.logprob)
    events = list(client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, stream=True))
    told = [one for e in events if e.choices and e.choices[0].logprobs for one in e.choices[0].logprobs.content]
    assert [one.token for one in told] == [one.token for one in content]
    for wrong in ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}):
        with pytest.raises(openai.BadRequestError, match="top_logprobs"):
            client.chat.completions.create(**asked, **wrong)


def test_several_messages_of_one_side_are_one(client):
    def answered(*contents: str) -> str:
        messages = [{"role": "user", "content": content} for content in contents]
        given = {"model": "decoder", "messages": messages, "max_tokens": 8, "temperature": 0}
        return client.chat.completions.create(**given).choices[0].message.content

    assert answered("is it?", "yes") == answered("is it?\n\nyes")
