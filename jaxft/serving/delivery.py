"""How what the device tells of a job comes to the client that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jaxft.errors import JaxftError
from jaxft.serving.engine import Engine, Job
from jaxft.serving.errors import ApiError, of_user
from jaxft.serving.limits import Limits


async def told(request: Request, job: Job, engine: Engine, limits: Limits) -> AsyncIterator[Any]:
    """What the device tells of a job; frees its place when the client leaves or its time is up.

    Args:
      request: whose client waits.
      job: that was submitted for it.
      engine: that does it.
      limits: of the server.

    Raises:
      ApiError: the time is up, or the job failed.
      ClientDisconnect: nobody waits any more.
    """
    left = asyncio.create_task(_departure(request))
    event: asyncio.Task[Any] | None = None
    try:
        while True:
            event = asyncio.create_task(job.events.get())
            rest = max(0.0, job.deadline - time.monotonic())
            done, _ = await asyncio.wait({event, left}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            if event not in done:
                if left in done:
                    raise ClientDisconnect
                raise late(limits)
            found = event.result()
            if found is None:
                if job.is_withdrawn():
                    raise late(limits)
                return
            if isinstance(found, JaxftError):
                raise of_user(found)
            if isinstance(found, ApiError):
                raise found
            if isinstance(found, Exception):
                raise ApiError(500, "the server failed at this request; its log says more")
            yield found
    finally:
        left.cancel()
        if event is not None:
            event.cancel()
        engine.withdraw(job)


class EventStream(Response):
    """Server-sent events; who makes them looks after clients that leave."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]):
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def late(limits: Limits) -> ApiError:
    """The answer to a request that took too long."""
    return ApiError(408, f"the request took longer than the {limits.time_limit:g} s that it may", code="time_limit")


async def _departure(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
