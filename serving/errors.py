"""Errors that a client is told of, in the form of OpenAI's."""

import asyncio
import contextlib
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "server_error"}
_LINGERING_SECONDS = 5.0  # in which a client that was refused early may go on sending


class _EarlyResponse(JSONResponse):
    """A response to a request that is not there yet: reads on for a while, or a client that sends may not see it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and end it when the request has ended too."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGERING_SECONDS):
                has_more = True
                while has_more:
                    has_more = (await receive()).get("more_body", False)
        await send({"type": "http.response.body"})


class ClientError(ValueError):
    """A request that cannot be served, and the sentence that says why.

    Args:
        message (`str`): The sentence.
        param (`str`, *optional*): The field that is wrong.
        code (`str`, *optional*): A word for programs.
        status (`int`): Of HTTP.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def to_dict(self) -> dict[str, Any]:
        """Return what stands under `error`."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": str(self), "type": kind, "param": self.param, "code": self.code}

    def to_response(self) -> JSONResponse:
        """Return the response of HTTP."""
        headers = {"retry-after": "5"} if self.status == 503 else None
        kind = _EarlyResponse if self.status == 413 else JSONResponse
        return kind({"error": self.to_dict()}, status_code=self.status, headers=headers)


def server_failure() -> ClientError:
    """Return what a client is told of a fault of the server: nothing of its inside."""
    return ClientError("The server failed; its log says why.", code="internal_error", status=500)


def server_stopped() -> ClientError:
    """Return what a client is told whose answer the end of the server has cut."""
    return ClientError("The server is being stopped.", code="server_stopped", status=503)


def server_busy(why: str) -> ClientError:
    """Return what a client is told when the server takes no more."""
    return ClientError(why, code="server_busy", status=503)
