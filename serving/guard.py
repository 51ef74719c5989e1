"""Checks before any endpoint: the host, the page that asks, and the key; and headers that hold the page to its own.

A page of another site that a browser shows can send requests to this machine. It cannot lie about its `Origin`, and
where a name of its own leads here (DNS rebinding), `Host` has that name.
"""

import hmac
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .errors import ClientError

LOCAL_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))
KEY_PROTOCOL = "openai-insecure-api-key."  # a subprotocol, as browsers set no headers of WebSockets
_GUARDED = "/v1/"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "connect-src 'self'; font-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(self), geolocation=()",
}


class Guard:
    """Middleware that refuses who may not come in.

    Args:
        app (`ASGIApp`): What is guarded.
        api_key (`str`, *optional*): What clients of `/v1/` must send. Without one only local names are answered.
    """

    def __init__(self, app: ASGIApp, api_key: str | None = None):
        self.app, self.api_key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        sender = send if scope["type"] == "websocket" else _with_headers(send)
        try:
            self._check(scope)
        except ClientError as error:
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, send).send_denial_response(error.to_response())
            else:
                await error.to_response()(scope, receive, sender)
            return
        await self.app(scope, receive, sender)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.api_key is None and _host_name(host) not in LOCAL_HOSTS:
            raise ClientError("The server answers only to names of its own machine.", code="wrong_host", status=403)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ClientError("Pages of other sites may not use this server.", code="wrong_origin", status=403)
        if self.api_key is not None and scope["path"].startswith(_GUARDED):
            given = _find_key(headers)
            if given is None or not hmac.compare_digest(given.encode(), self.api_key.encode()):
                raise ClientError("The API key is missing or wrong.", code="invalid_api_key", status=401)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _find_key(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(KEY_PROTOCOL):
            return protocol.strip().removeprefix(KEY_PROTOCOL)
    return None


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return sender
