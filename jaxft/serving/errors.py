"""What a server answers where it can't do what is asked, in the form of OpenAI's errors."""

from __future__ import annotations

from typing import Any

from jaxft.errors import CheckpointError, DataError, JaxftError

# Options of a request that have other names inside.
_OUTSIDE = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_return_sequences": "n",
}  # fmt: skip


# Characters of a message, which may tell what was found.
_LONGEST = 1000


class ApiError(Exception):
    """An answer with a status of its own.

    Attributes:
      status: of HTTP.
      message: what is wrong and what would be right.
      parameter: key of the request, or None.
      code: a word for programs, or None.
      retry: whether the same request may succeed later.
    """

    def __init__(
        self, status: int, message: str, parameter: str | None = None, code: str | None = None, retry: bool = False
    ):
        # Halves of characters, which a request can spell, can't be sent.
        message = message.encode("utf-8", "backslashreplace").decode()
        if len(message) > _LONGEST:
            message = f"{message[:_LONGEST]}..."
        super().__init__(message)
        self.status, self.message, self.parameter, self.code, self.retry = status, message, parameter, code, retry

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Beside the usual ones. OpenAI's clients ask again after 408, 409, 429 and 5xx unless they are told not to."""
        told = {"x-should-retry": "true" if self.retry else "false"}
        if self.status == 401:
            told["www-authenticate"] = "Bearer"
        if self.retry:
            told["retry-after"] = "1"
        return told


def outside_name(name: str) -> str:
    """What a request calls an option of `GenerationConfig`."""
    return _OUTSIDE.get(name, name)


def of_user(error: JaxftError, code: str | None = None) -> ApiError:
    """The answer for what a request can't have, which jaxft says of its texts and options."""
    message, code = str(error), getattr(error, "reason", None) if code is None else code
    if isinstance(error, CheckpointError):
        return ApiError(500, message)
    for inside, outside in _OUTSIDE.items():
        message = message.replace(inside, outside)
    return ApiError(400, message, code=code if isinstance(error, DataError) and code != "other" else None)
