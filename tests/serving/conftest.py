"""Servers of small models on this machine, each in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import served_models
import uvicorn

from jaxft.serving.app import make_app
from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel
from jaxft.workflows.inference.serve import open_served

TOKEN = "a-token-of-these-tests"


@pytest.fixture(scope="session")
def directories(tmp_path_factory) -> dict[str, object]:
    """Models in Hugging Face layout."""
    root = tmp_path_factory.mktemp("models")
    labels = {"id2label": {0: "neg", 1: "pos", 2: "neutral"}, "label2id": {"neg": 0, "pos": 1, "neutral": 2}}
    return {
        "decoder": served_models.decoder(root / "decoder"),
        "t5": served_models.encoder_decoder(root / "t5"),
        "classifier": served_models.encoder(root / "classifier", "BertForSequenceClassification", **labels),
        "masked": served_models.encoder(root / "masked", "BertForMaskedLM"),
    }


@contextlib.contextmanager
def running(model: ServedModel, limits: Limits, token: str | None = None) -> Iterator[str]:
    """The address of a server."""
    config = uvicorn.Config(make_app(model, limits, token), port=0, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


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
