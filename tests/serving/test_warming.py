"""What a server compiles before it answers: the first requests find their programs there."""

from __future__ import annotations

import pytest
from asking import ask
from running import running

from jaxft.generation.loop import begin, go_on
from jaxft.serving.limits import Limits
from jaxft.serving.warming import warm_up


def test_first_requests_compile_nothing(served):
    model, limits = served("decoder"), Limits(batch_size=4, max_tokens=64)
    warmed = warm_up(model, limits)
    assert warmed.shapes == warmed.of == 12 and "12 of 12" in str(warmed)
    compiled = begin._cache_size(), go_on._cache_size()
    with running(model, limits) as address:
        assert ask(address, "/v1/completions", {"prompt": "the cat"})[0] == 200
        messages = [{"role": "user", "content": "is it?"}]
        assert ask(address, "/v1/chat/completions", {"messages": messages})[0] == 200
    assert (begin._cache_size(), go_on._cache_size()) == compiled


@pytest.mark.parametrize("name", ["classifier", "masked", "t5"])
def test_models_of_every_kind_are_warmed(name, served):
    warmed = warm_up(served(name), Limits(batch_size=4))
    assert warmed.shapes == warmed.of >= 1
