"""The page on which a model is tried by hand: one file with its own style and script, and nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


@functools.cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets a browser run its own script and style alone."""
    text = importlib.resources.files("jaxft.serving").joinpath("page.html").read_text(encoding="utf-8")

    def hashed(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = hashlib.sha256(content.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


async def page_response(request: Request) -> Response:
    """`/`"""
    text, policy = _page()
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(text, headers=headers)
