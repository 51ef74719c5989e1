"""HTTP connections that end where a request does not arrive; uvicorn waits for the end of its headers for ever."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .errors import ClientError

HEADERS_SECONDS = 20.0  # from the first byte, or from the beginning of a connection, to the end of the headers
_base: Any = AutoHTTPProtocol


class TimedHTTPProtocol(_base):
    """A connection whose client has [`HEADERS_SECONDS`] to send the headers of each request."""

    _timer: asyncio.TimerHandle | None = None
    _has_data = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Read, and wait for what is missing of the headers."""
        self._has_data = True
        super().data_received(data)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting."""
        self._stop()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        is_between = self.cycle is None or self.cycle.response_complete
        if not is_between or self not in self.connections:  # a request has come, or it is a WebSocket now
            self._stop()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEADERS_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None and self._has_data:
            error = ClientError("The request took too long.", code="timeout", status=408)
            body = json.dumps({"error": error.to_dict()}).encode()
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.transport.close()
