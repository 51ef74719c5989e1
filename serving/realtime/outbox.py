"""Events that wait to be sent to one client, in order and not too many."""

import asyncio
from collections import deque
from typing import Any

_MAX_WAITING = 64


class Outbox:
    """A bounded queue of events, from which those of an answer can be taken back.

    Args:
        seconds (`float`): How long to wait for room before the client counts as gone.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.is_closed = False
        self._events: deque[dict[str, Any]] = deque()
        self._changed = asyncio.Condition()

    async def put(self, event: dict[str, Any]) -> None:
        """Append an event, when there is room.

        Raises:
            `ConnectionError`: The client takes nothing, or is gone.
        """
        async with self._changed:
            if len(self._events) >= _MAX_WAITING:
                try:
                    async with asyncio.timeout(self.seconds):
                        await self._changed.wait_for(lambda: self.is_closed or len(self._events) < _MAX_WAITING)
                except TimeoutError:
                    self.is_closed = True
            if self.is_closed:
                self._changed.notify_all()
                raise ConnectionError("The client takes no events.")
            self._events.append(event)
            self._changed.notify_all()

    async def get(self) -> dict[str, Any] | None:
        """Return the next event; `None` when the outbox is closed and there is no other."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._events or self.is_closed)
            event = self._events.popleft() if self._events else None
            self._changed.notify_all()
            return event

    async def take_back(self, response_id: str) -> list[dict[str, Any]]:
        """Take out the deltas of an answer that were not sent; return them."""
        async with self._changed:
            taken = [event for event in self._events if _is_delta(event, response_id)]
            self._events = deque(event for event in self._events if not _is_delta(event, response_id))
            self._changed.notify_all()
            return taken

    async def close(self) -> None:
        """Take no more events."""
        async with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def _is_delta(event: dict[str, Any], response_id: str) -> bool:
    return event["type"].endswith(".delta") and event.get("response_id") == response_id
