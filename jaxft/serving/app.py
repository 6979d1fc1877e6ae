"""The server's addresses, and its answers to what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jaxft.serving import parsing
from jaxft.serving.errors import ApiError
from jaxft.serving.guard import Guard
from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel
from jaxft.serving.page import page_response
from jaxft.serving.service import Endpoint, Service


def make_app(model: ServedModel, limits: Limits, token: str | None = None, host: str = "127.0.0.1") -> ASGIApp:
    """What answers requests about a model, as ASGI has it.

    Args:
      model: what it can do.
      limits: of requests and of what is worked on at once.
      token: that clients must show, or None.
      host: address that is listened on.
    """
    return app_of(Service(model, limits), token, host)


def app_of(service: Service, token: str | None, host: str) -> ASGIApp:
    """The same of what does the work."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.close()

    posts: dict[str, tuple[Endpoint, tuple[str, ...]]] = {
        "completions": (service.completions, parsing.COMPLETION_KEYS),
        "chat/completions": (service.chat, parsing.CHAT_KEYS),
        "embeddings": (service.embeddings, parsing.EMBEDDING_KEYS),
        "classify": (service.classify, parsing.CLASSIFY_KEYS),
        "fill-mask": (service.fill_mask, parsing.FILL_KEYS),
    }
    routes = [
        Route(f"/v1/{name}", service.endpoint(name, answer, keys), methods=["POST"])
        for name, (answer, keys) in posts.items()
    ]
    routes += [
        Route("/", page_response),
        Route("/health", service.health),
        Route("/metrics", service.numbers),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.one_model),
    ]
    # Each is called with errors of its own kind alone.
    handlers: dict[Any, Any] = {HTTPException: _of_http, ApiError: _of_api, Exception: _of_defect}
    return Guard(Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers), token, host)


async def _of_api(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


async def _of_http(request: Request, error: HTTPException) -> Response:
    said = {404: f"there is nothing at {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
    found = ApiError(error.status_code, said.get(error.status_code, error.detail))
    return JSONResponse(found.body(), found.status, {**(error.headers or {}), **found.headers})


async def _of_defect(request: Request, error: Exception) -> Response:
    found = ApiError(500, "the server failed at this request; its log says more")
    return JSONResponse(found.body(), found.status, found.headers)
