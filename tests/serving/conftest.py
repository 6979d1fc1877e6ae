"""Servers of small models on this machine, each in a thread of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from running import running
from support import tiny_models

from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel
from jaxft.workflows.inference.serve import open_served


@pytest.fixture(scope="session")
def directories(tmp_path_factory) -> dict[str, object]:
    """Models in Hugging Face layout."""
    root = tmp_path_factory.mktemp("models")
    spread = {"initializer_range": 0.3}
    labels = {"id2label": {0: "neg", 1: "pos", 2: "neutral"}, "label2id": {"neg": 0, "pos": 1, "neutral": 2}}
    return {
        "decoder": tiny_models.llama(root / "decoder"),
        "t5": tiny_models.t5(root / "t5"),
        "classifier": tiny_models.bert(root / "classifier", "BertForSequenceClassification", **spread, **labels),
        "masked": tiny_models.bert(root / "masked", "BertForMaskedLM", **spread),
    }


@pytest.fixture(scope="session")
def served(directories) -> Callable[..., ServedModel]:
    """A served model by its name; one for each, however many servers have it."""
    made: dict[str, ServedModel] = {}

    def get(name: str) -> ServedModel:
        if name not in made:
            made[name] = open_served(directories[name], name, None, "float32", Limits(batch_size=4))
        return made[name]

    return get


@pytest.fixture(scope="session")
def address(served) -> Iterator[Callable[[str], str]]:
    """The address of a server of a model with plain limits."""
    with contextlib.ExitStack() as stack:
        known: dict[str, str] = {}

        def get(name: str) -> str:
            if name not in known:
                known[name] = stack.enter_context(running(served(name), Limits(batch_size=4, max_tokens=64)))
            return known[name]

        yield get
