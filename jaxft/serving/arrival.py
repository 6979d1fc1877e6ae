"""What a request holds, read within the limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from jaxft.serving.errors import ApiError
from jaxft.serving.limits import Limits


async def body_of(request: Request, limits: Limits) -> bytes:
    """What a request holds.

    Raises:
      ApiError: it is too large, comes too slowly, or is no JSON by its own words.
    """
    most = limits.max_body
    # A form of another site's page can't be of this kind without asking first (CORS), and is never allowed to.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the request's content-type must be application/json")
    large = ApiError(413, f"the request has more than {most} bytes", code="body_too_large")
    if request.headers.get("content-length", "0").isdigit() and int(request.headers.get("content-length", 0)) > most:
        raise large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise large
    except TimeoutError:
        raise ApiError(408, f"the request took longer than {limits.body_seconds:g} s to arrive") from None
    return bytes(body)
