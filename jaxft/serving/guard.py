"""Who may ask: those who show the token, and on a loopback address those who ask this machine by its own name."""

from __future__ import annotations

import hmac
import ipaddress
import re

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxft.serving.errors import ApiError

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")

# What anyone may see: that the server is there, and the page, which asks for the token itself.
_OPEN = ("/", "/health")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Turns strangers away before anything is read.

    Args:
      app: what answers the others.
      token: that they must show as `Authorization: Bearer ...`; None for none.
      host: address that is listened on. On a loopback one, requests must name it or `localhost` as their host: a page
        of another site, whose name was made to lead here (DNS rebinding), does not.
    """

    def __init__(self, app: ASGIApp, token: str | None, host: str):
        self._app, self._token = app, token
        self._hosts = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except ApiError as error:
                # Nothing of its body is read, so that nothing may follow it.
                headers = {**error.headers, "connection": "close"}
                await JSONResponse(error.body(), error.status, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if "content-length" in headers and "transfer-encoding" in headers:
            # Where it ends is read differently by different programs on its way.
            raise ApiError(400, "a request has either content-length or transfer-encoding")
        host = headers.get("host", "")
        if host and _HOST.fullmatch(host) is None:
            raise ApiError(400, "the request's host is neither a name nor an address, with a port or without")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise ApiError(403, "this server answers requests to its own address only", code="wrong_host")
        if self._token is None or path in _OPEN:
            return
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode(), self._token.encode())
        if scheme.lower() != "bearer" or not right:
            raise ApiError(401, "show the server's token as `Authorization: Bearer TOKEN`", code="invalid_api_key")


def _name(host: str) -> str:
    """A host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    host = host.lower()
    return host.rpartition(":")[0] if host.count(":") == 1 else host
