"""Errors that a client is told of, in the form of OpenAI's."""

from typing import Any

from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "server_error"}


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
        return JSONResponse({"error": self.to_dict()}, status_code=self.status, headers=headers)


def server_failure() -> ClientError:
    """Return what a client is told of a fault of the server: nothing of its inside."""
    return ClientError("The server failed; its log says why.", code="internal_error", status=500)


def server_stopped() -> ClientError:
    """Return what a client is told whose answer the end of the server has cut."""
    return ClientError("The server is being stopped.", code="server_stopped", status=503)


def server_busy(why: str) -> ClientError:
    """Return what a client is told when the server takes no more."""
    return ClientError(why, code="server_busy", status=503)
