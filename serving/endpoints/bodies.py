"""Bodies of requests and of streamed responses, bounded in size and time."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from ..errors import ClientError
from ..fields import Fields, parse_object
from ..jobs import Job
from ..token_stream import Piece

_READ_SECONDS = 60.0  # that a client has to send its request


def limit_body(request: Request, max_bytes: int) -> Request:
    """Return the request, which raises a [`ClientError`] when more than `max_bytes` of it were read."""
    receive, num_read = request.receive, 0

    async def counted() -> Any:
        nonlocal num_read
        message = await receive()
        num_read += len(message.get("body", b""))
        if num_read > max_bytes:
            raise ClientError(f"The request must have at most {max_bytes} bytes.", code="too_large", status=413)
        return message

    return Request(request.scope, counted)


async def read_json(request: Request, max_bytes: int) -> Fields:
    """Return the JSON object that a request holds.

    Raises:
        [`ClientError`]: It holds something else, or too much, or takes too long.
    """
    try:
        async with asyncio.timeout(_READ_SECONDS):
            body = await limit_body(request, max_bytes).body()
    except TimeoutError as error:
        raise ClientError("The request took too long.", code="timeout", status=408) from error
    return parse_object(body, "the request")


class Pieces:
    """Pieces of a job for a response of HTTP, which is cancelled when it takes too long.

    Args:
        job ([`Job`]): What makes them.
        seconds (`float`): Longest time.
    """

    def __init__(self, job: Job, seconds: float):
        self._job = job
        self._first: Piece | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, job.cancel)

    async def begin(self) -> "Pieces":
        """Wait for the first piece: what is wrong with the request is raised before the response begins."""
        try:
            self._first = await anext(self._job, None)
        except BaseException:
            self.close()
            raise
        return self

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            if self._first is not None:
                yield self._first
            is_final = self._first is not None and self._first.is_final
            async for piece in self._job:
                is_final = piece.is_final
                yield piece
            if not is_final:
                raise ClientError("The answer took too long.", code="timeout", status=504)
        finally:
            self.close()

    def close(self) -> None:
        """End the job."""
        self._timer.cancel()
        self._job.cancel()


def stream_events(events: AsyncIterator[dict[str, Any]], end: str | None = None) -> StreamingResponse:
    """Return a response of server-sent events.

    Args:
        events: Their data.
        end (`str`, *optional*): Data behind the last one.
    """

    async def lines() -> AsyncIterator[str]:
        try:
            async for event in events:
                yield f"data: {json.dumps(event)}\n\n"
        except ClientError as error:
            yield f"data: {json.dumps({'error': error.to_dict()})}\n\n"
        if end is not None:
            yield f"data: {end}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})
