"""The endpoints, asked by OpenAI's own client and by hand: what they say is what the functions say."""

from __future__ import annotations

import json

import numpy as np
import openai
import pytest
import torch
import transformers
from asking import ask
from running import TOKEN, running

import jaxft
from jaxft.generation.config import GenerationConfig
from jaxft.generation.talking import chat_prompt
from jaxft.serving.limits import Limits

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "is it?"}]


def client(address: str, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=token, max_retries=0, timeout=60)


def test_completions_are_those_of_generate(served, address):
    """Several prompts, several answers of each, drawn by a seed."""
    model, prompts = served("decoder"), ["the cat", "it sat on the"]
    config = GenerationConfig(max_new_tokens=7, temperature=0.8, top_p=0.9, num_return_sequences=2, seed=5)
    expected = model.generator.generate(model.parameters, model.generator.encode(prompts), config)
    found = client(address("decoder")).completions.create(
        model="decoder", prompt=prompts, max_tokens=7, temperature=0.8, top_p=0.9, n=2, seed=5, logprobs=0
    )
    assert [choice.text for choice in found.choices] == [one.text for one in expected]
    for choice, one in zip(found.choices, expected, strict=True):
        assert sum(choice.logprobs.token_logprobs) == pytest.approx(one.log_probability, abs=1e-3)
    assert found.usage.completion_tokens == sum(len(one.token_ids) for one in expected)
    assert found.usage.prompt_tokens == sum(map(len, model.generator.encode(prompts)))


@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_what_is_asked_for_is_followed(name, served, address):
    """Greedy, with a stop text, by beams, by a regular expression and with a forced beginning."""
    model = served(name)
    asked = client(address(name)).completions.create
    prompts = model.generator.encode(["the cat"])
    (free,) = model.generator.generate(model.parameters, prompts, GenerationConfig(max_new_tokens=9))
    found = asked(model=name, prompt="the cat", max_tokens=9, temperature=0)
    assert found.choices[0].text == free.text
    if name == "t5":
        return
    stop = free.text[3:5]
    stopped = asked(model=name, prompt="the cat", max_tokens=9, temperature=0, stop=[stop]).choices[0]
    assert stopped.text == free.text[: free.text.index(stop)] and stopped.finish_reason == "stop"
    config = GenerationConfig(max_new_tokens=9, beams=3, num_return_sequences=2)
    best = model.generator.generate(model.parameters, prompts, config)
    searched = asked(model=name, prompt="the cat", max_tokens=9, n=2, extra_body={"beams": 3})
    assert [choice.text for choice in searched.choices] == [one.text for one in best]
    written = asked(model=name, prompt="a", max_tokens=9, seed=1, extra_body={"regex": "(yes|no) [0-9]{2}"})
    assert written.choices[0].text[-3:].strip().isdigit()
    unliked, liked = int(free.token_ids[0]), 300
    for bias, expected in (({unliked: -100}, False), ({unliked: -100, liked: 100}, True)):
        logs = (
            asked(model=name, prompt="the cat", max_tokens=3, temperature=0, logit_bias=bias, logprobs=0)
            .choices[0]
            .logprobs
        )
        tokens = [model.generator.tokenizer.decode(np.asarray([token])) for token in (unliked, liked)]
        assert tokens[0] not in logs.tokens and (logs.tokens == [tokens[1]] * 3) == expected
    forced = asked(model=name, prompt="a", max_tokens=9, seed=1, extra_body={"prefix": "the mat"})
    assert forced.choices[0].text.startswith("the mat")


def test_a_conversation_is_answered_whole_and_piece_by_piece(served, address):
    model = served("decoder")
    prompt = chat_prompt(model.form, model.generator.tokenizer, MESSAGES)
    config = GenerationConfig(max_new_tokens=12, temperature=1.0, seed=3)
    (expected,) = model.generator.generate(model.parameters, [prompt], config)
    chat = client(address("decoder")).chat.completions
    options = {"model": "decoder", "messages": MESSAGES, "max_completion_tokens": 12, "seed": 3}
    whole = chat.create(**options)
    assert whole.choices[0].message.content == expected.text and whole.choices[0].message.role == "assistant"
    events = list(chat.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == expected.text
    assert len(events) > 4, "it did not come piece by piece"
    assert events[-1].usage.completion_tokens == len(expected.token_ids)
    assert [e.choices[0].finish_reason for e in events if e.choices][-1] in ("length", "stop")
    schema = {"type": "object", "properties": {"age": {"enum": [10, 20]}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "age", "schema": schema}}
    shaped = chat.create(**{**options, "max_completion_tokens": 20}, response_format=form)
    assert json.loads(shaped.choices[0].message.content) in ({"age": 10}, {"age": 20})
    for seed in range(3):
        free = chat.create(
            **{**options, "max_completion_tokens": 40, "seed": seed}, response_format={"type": "json_object"}
        )
        assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_vectors_labels_and_masks_are_those_of_torch(directories, address):
    """Read in one request with texts of other lengths."""
    texts = ["good film", "the plot is dull", "a fine film is the plot"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directories["classifier"])
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(directories["classifier"]).eval()
    masked = transformers.AutoModelForMaskedLM.from_pretrained(directories["masked"]).eval()
    with torch.no_grad():
        chances = theirs(**batch).logits.softmax(-1).numpy()
        hidden, real = masked.bert(**batch).last_hidden_state, batch["attention_mask"][..., None]
        vectors = ((hidden * real).sum(1) / real.sum(1)).numpy()
        blank = tokenizer("the [MASK] is good", return_tensors="pt")
        behind = masked(**blank).logits[0, 2].softmax(-1)
    status, found = ask(address("classifier"), "/v1/classify", {"input": texts})
    assert status == 200
    for one, expected in zip(found["data"], chances, strict=True):
        np.testing.assert_allclose(list(one["scores"].values()), expected, atol=1e-5)
        assert one["label"] == ("neg", "pos", "neutral")[int(expected.argmax())]
    embeddings = client(address("masked")).embeddings
    for options in ({}, {"encoding_format": "float"}):  # by itself the client asks for base64, and decodes it
        found = embeddings.create(model="masked", input=texts, **options).data
        np.testing.assert_allclose([one.embedding for one in found], vectors, atol=1e-4)
    np.testing.assert_allclose(
        embeddings.create(model="masked", input=texts[0]).data[0].embedding, vectors[0], atol=1e-4
    )
    status, found = ask(address("masked"), "/v1/fill-mask", {"input": ["the <mask> is good"], "top_k": 3})
    best = behind.topk(3)
    (candidates,) = found["data"][0]["masks"]
    assert [one["token"] for one in candidates] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
    np.testing.assert_allclose([one["probability"] for one in candidates], best.values.numpy(), atol=1e-5)


def test_pairs_are_read_as_torch_reads_them(directories):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directories["classifier"])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(directories["classifier"]).eval()
    with torch.no_grad():
        expected = theirs(**tokenizer("good film", "the plot", return_tensors="pt")).logits.softmax(-1)[0]
    (found,) = jaxft.classify(directories["classifier"], [("good film", "the plot")])
    np.testing.assert_allclose(list(found.scores.values()), expected.numpy(), atol=1e-5)


USER, SYSTEM = ([{"role": role, "content": "a"}] for role in ("user", "system"))
WRONG = [
    ("completions", {}, 400, "prompt"),
    ("completions", b"{", 400, "not JSON"),
    ("completions", b'{"prompt": "\xff"}', 400, "UTF-8"),
    ("completions", b"[1]", 400, "object"),
    ("completions", b"[" * 5000, 400, "not JSON"),
    ("completions", {"prompt": "\ud800"}, 400, "surrogates"),
    ("completions", {"prompt": "a", "temprature": 1}, 400, "did you mean temperature"),
    ("completions", {"prompt": "a", "temperature": -0.1}, 400, "temperature: must not be negative"),
    ("completions", {"prompt": "a", "temperature": "hot"}, 400, "must be a number"),
    ("completions", {"prompt": "a", "temperature": True}, 400, "must be a number"),
    ("completions", b'{"prompt": "a", "temperature": 1e999}', 400, "finite"),
    ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
    ("completions", {"prompt": "a", "max_tokens": 65}, 400, "at most 64"),
    ("completions", {"prompt": "a", "n": 2, "temperature": 0}, 400, "n: above 1"),
    ("completions", {"prompt": "a", "n": 200}, 400, "more than the 64"),
    ("completions", {"prompt": "a", "no_repeat_ngram": 10**9}, 400, "at most 64"),
    ("completions", {"prompt": "a", "stream": True, "beams": 2}, 400, "beam search"),
    ("completions", {"prompt": "a", "regex": "[a-"}, 400, "regex"),
    ("completions", {"prompt": "a", "regex": "\u3042", "max_tokens": 1}, 400, "regex"),
    ("completions", {"prompt": "a", "stop_token_ids": [99999]}, 400, "vocabulary"),
    ("completions", {"prompt": "a", "tools": [{}]}, 400, "tools"),
    ("completions", {"prompt": "a", "logprobs": 6}, 400, "logprobs"),
    ("completions", {"prompt": ""}, 400, "empty"),
    ("completions", {"prompt": "cat " * 200}, 400, "context is 128"),
    ("completions", {"prompt": [[5, 99999]]}, 400, "vocabulary"),
    ("completions", {"prompt": "a", "model": "other"}, 404, "no model 'other'"),
    ("chat/completions", {"messages": []}, 400, "messages"),
    ("chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, 400, "user's"),
    (
        "chat/completions",
        {"messages": [*USER, {"role": "system", "content": "b"}]},
        400,
        "message 2: must be the assistant's",
    ),
    ("chat/completions", {"messages": [{"role": "robot", "content": "a"}]}, 400, "role must be one of"),
    ("chat/completions", {"messages": [{"role": "user", "content": " "}]}, 400, "empty"),
    ("chat/completions", {"messages": [*USER, {"role": "assistant", "content": "b"}]}, 400, "must be the user's"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "xml"}}, 400, "json_object, or json_schema"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "json_schema"}}, 400, "with a schema"),
    ("chat/completions", {"messages": USER, "tools": [{"type": "function"}]}, 400, "call no tools"),
    ("chat/completions", {"messages": USER, "tool_choice": "required"}, 400, "call no tools"),
    ("completions", {"prompt": "a", "logit_bias": {"5": 101}}, 400, "-100 to 100"),
    ("completions", {"prompt": "a", "logit_bias": {"five": 1}}, 400, "token ids"),
    ("completions", {"prompt": "a", "logit_bias": {"5": True}}, 400, "token ids"),
    ("completions", {"prompt": "a", "logit_bias": [5]}, 400, "an object"),
    ("completions", {"prompt": "a", "logit_bias": {"99999": 1}}, 400, "logit_bias: 99999 is outside"),
    ("embeddings", {"input": "a"}, 400, "can't do embeddings"),
    ("classify", {"input": "a"}, 400, "can't do classify"),
    ("nothing", {}, 404, "nothing at"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), WRONG)
def test_wrong_requests_are_told_what_is_wrong(path, body, status, words, address):
    found, answer = ask(address("decoder"), f"/v1/{path}", body)
    assert (found, set(answer["error"])) == (status, {"message", "type", "param", "code"})
    assert words in answer["error"]["message"]


def test_encoders_say_what_they_cannot(address):
    for body, words in (
        ({"input": ""}, "empty"),
        ({"input": []}, "empty list"),
        ({"input": "good " * 40}, "reads 30"),
        ({"input": [["a", "b", "c"]]}, "list of texts"),
        ({"input": ["a"] * 65}, "more than the 64"),
    ):
        status, answer = ask(address("classifier"), "/v1/classify", body)
        assert status == 400 and words in answer["error"]["message"]
    assert ask(address("classifier"), "/v1/classify", {"input": "good " * 40, "truncate": True})[0] == 200
    status, answer = ask(address("masked"), "/v1/fill-mask", {"input": "good film"})
    assert status == 400 and "no mask" in answer["error"]["message"]
    status, answer = ask(address("masked"), "/v1/chat/completions", {"messages": USER})
    assert status == 400 and "can't write" in answer["error"]["message"]


def test_openais_client_raises_its_own_errors(address):
    with pytest.raises(openai.BadRequestError, match="must not be negative"):
        client(address("decoder")).completions.create(model="decoder", prompt="a", temperature=-1)
    with pytest.raises(openai.NotFoundError, match="no model"):
        client(address("decoder")).completions.create(model="gpt", prompt="a")
    (model,) = client(address("decoder")).models.list().data
    assert model.id == "decoder" and client(address("decoder")).models.retrieve("decoder").id == "decoder"


def test_strangers_are_turned_away(served):
    """Without the token, by the name of another site, or from a form of another site's page."""
    with running(served("decoder"), Limits(), TOKEN) as address:
        for path in ("/v1/models", "/metrics"):
            assert ask(address, path)[0] == 401
            assert ask(address, path, authorization=f"Bearer {TOKEN}x")[0] == 401
            assert ask(address, path, authorization=f"Basic {TOKEN}")[0] == 401
            assert ask(address, path, authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(address, "/health")[0] == 200 and ask(address, "/")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            client(address).models.list()
        assert client(address, TOKEN).models.list().data
        assert ask(address, "/health", host="elsewhere.example")[0] == 403
        plain = ask(address, "/v1/completions", b"{}", authorization=f"Bearer {TOKEN}", content_type="text/plain")
        assert plain[0] == 415


def test_time_is_limited(served):
    """What takes too long ends, and leaves nothing behind it."""
    with running(served("decoder"), Limits(time_limit=0.02, batch_size=4)) as address:
        status, answer = ask(address, "/v1/completions", {"prompt": "a", "max_tokens": 100, "temperature": 0})
        assert status == 408 and answer["error"]["code"] == "time_limit"
        stream = {"prompt": "a", "max_tokens": 100, "temperature": 0, "stream": True}
        status, text = ask(address, "/v1/completions", stream)
        assert status == 200 and "time_limit" in text and "[DONE]" not in text
