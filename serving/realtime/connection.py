"""The WebSocket of a session: who is let in, events in, events out, and how it ends."""

import asyncio
import json
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..engine import Engine
from ..errors import ClientError, server_busy
from ..fields import read_query
from .outbox import Outbox
from .session import Session

logger = logging.getLogger(__name__)

_PROTOCOL = "realtime"
_BUSY, _TOO_LONG, _POLICY = 1013, 1001, 1008  # codes of RFC 6455 and its registry


class Sessions:
    """All sessions of a server: an endpoint for WebSockets.

    Args:
        engine ([`Engine`]): What answers.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.sessions: set[Session] = set()

    def require_room(self) -> None:
        """Raise a [`ClientError`] where another session cannot be served."""
        if len(self.sessions) >= self.engine.limits.max_sessions:
            raise server_busy(f"The server has {len(self.sessions)} conversations, as many as it takes; try later.")
        if self.sessions and not self.engine.pace.keeps_up:
            raise server_busy("The server speaks as fast as it can to others; try again later.")

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it leaves."""
        await socket.accept(_PROTOCOL if _PROTOCOL in socket.scope.get("subprotocols", ()) else None)
        try:
            self.require_room()
            name = read_query(socket.query_params.multi_items(), "model").get("model")
            if name is not None:
                self.engine.require_model(name)
        except ClientError as error:
            await _refuse(socket, error)
            return
        outbox = Outbox(self.engine.limits.send_seconds)
        session = Session(self.engine, outbox)
        self.sessions.add(session)
        writing = asyncio.create_task(self._write(socket, outbox))
        reading = asyncio.create_task(self._read(socket, session))
        try:
            async with asyncio.timeout(self.engine.limits.session_seconds):
                await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            logger.info("A session was as long as it may be.")
        finally:
            self.sessions.discard(session)
            reading.cancel()
            await session.close()
            await asyncio.wait((writing,), timeout=1)
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            await _close(socket, _TOO_LONG, "The session is over.")

    async def _read(self, socket: WebSocket, session: Session) -> None:
        try:
            await session.begin()
            while True:
                async with asyncio.timeout(self.engine.limits.idle_seconds):
                    message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    await session.fail(ClientError("An event must be a text message, got bytes.", code="invalid_json"))
                else:
                    await session.receive(text)
        except TimeoutError:
            logger.info("A session was idle for too long.")
        except (ConnectionError, WebSocketDisconnect):
            logger.debug("A client left.")

    async def _write(self, socket: WebSocket, outbox: Outbox) -> None:
        try:
            while (event := await outbox.get()) is not None:
                async with asyncio.timeout(self.engine.limits.send_seconds):
                    await socket.send_text(json.dumps(event))
        except (TimeoutError, ConnectionError, WebSocketDisconnect, RuntimeError):
            logger.debug("A client takes nothing any more.")
        await outbox.close()


async def _refuse(socket: WebSocket, error: ClientError) -> None:
    await socket.send_text(json.dumps({"type": "error", "error": error.to_dict()}))
    await _close(socket, _BUSY if error.status == 503 else _POLICY, str(error)[:100])


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    try:
        async with asyncio.timeout(1):
            await socket.close(code, reason)
    except (RuntimeError, TimeoutError, ConnectionError, WebSocketDisconnect):
        logger.debug("A client was gone before the end.")
