"""Bodies of requests and of streamed responses, bounded in size and time, and answers for clients that may leave."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from ..errors import ClientError
from ..fields import Fields, parse_object, read_query
from ..jobs import Job
from ..token_stream import Piece

logger = logging.getLogger(__name__)

_READ_SECONDS = 60.0  # that a client has to send its request


async def answer(request: Request, max_bytes: int, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """Return the response to a request, which is worked at for as long as the client is there.

    Args:
        request (`Request`): Its body is read here, before anything else.
        max_bytes (`int`): Of the body.
        handle (`Callable`): Makes the response; it is cancelled when the client leaves.

    Raises:
        [`ClientError`]: The body is too large or takes too long, there is a query, or `handle` raises one.
        `ClientDisconnect`: The client has left.
    """
    read_query(request.query_params.multi_items())
    whole = _limit_body(request, max_bytes)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await whole.body()  # which the request keeps
    except TimeoutError as error:
        raise ClientError("The request took too long.", code="timeout", status=408) from error
    working = asyncio.ensure_future(handle(whole))
    leaving = asyncio.ensure_future(_wait_for_end(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_for_end(request: Request) -> None:
    """Return when the client has left."""
    is_there = True
    while is_there:
        is_there = (await request.receive())["type"] != "http.disconnect"


def _limit_body(request: Request, max_bytes: int) -> Request:
    """Return the request, which raises a [`ClientError`] when more than `max_bytes` of it were read.

    Raises:
        [`ClientError`]: Its header says that it has more.
    """
    receive, num_read = request.receive, 0
    too_large = ClientError(f"The request must have at most {max_bytes} bytes.", code="too_large", status=413)
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large

    async def counted() -> Any:
        nonlocal num_read
        message = await receive()
        num_read += len(message.get("body", b""))
        if num_read > max_bytes:
            raise too_large
        return message

    return Request(request.scope, counted)


async def read_json(request: Request) -> Fields:
    """Return the JSON object that a request holds.

    Raises:
        [`ClientError`]: It holds something else.
    """
    return parse_object(await request.body(), "the request")


class Pieces:
    """Pieces of a job for a response of HTTP, which is cancelled when it takes too long.

    Args:
        job ([`Job`]): What makes them.
        seconds (`float`): Longest time.
    """

    def __init__(self, job: Job, seconds: float):
        self._job = job
        self._first: Piece | None = None
        job.end_after(seconds)

    async def begin(self) -> "Pieces":
        """Wait for the first piece: what is wrong with the request is raised before the response begins."""
        try:
            self._first = await anext(self._job, None)
        except BaseException:
            self._job.cancel()
            raise
        return self

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            if self._first is not None:
                yield self._first
            async for piece in self._job:
                yield piece
        finally:
            self._job.cancel()


class AudioStream(StreamingResponse):
    """A response of audio while it is made.

    Bytes of audio have no room for an error: what is cut breaks the connection off, and so does not pass for whole.
    """

    async def stream_response(self, send: Send) -> None:
        """Send the audio."""
        try:
            await super().stream_response(send)
        except ClientError as error:
            if error.code == "server_stopped":  # which ends the connections too, and this with them
                await asyncio.Event().wait()
            logger.warning(f"A speech was broken off: {error}")


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
