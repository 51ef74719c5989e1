"""Pieces of a turn that somebody else makes, as an answer takes them from a job."""

import asyncio
from typing import Any

from ..token_stream import Piece


class TurnFeed:
    """An asynchronous iterator over pieces that are put in, which ends when the turn is over or when it is cancelled.

    Args:
        max_waiting (`int`): Pieces that wait to be taken before who puts them in has to wait.
    """

    def __init__(self, max_waiting: int):
        self.is_cancelled = False
        self._is_ended = False
        self._pieces: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(max_waiting)

    async def put(self, piece: Piece | Exception) -> None:
        """Append a piece, or an error that ends the turn, when there is room; drop it where nobody takes it any more.

        Args:
            piece ([`Piece`] or `Exception`): What is new.
        """
        if self.is_cancelled:
            return
        await self._pieces.put(piece)
        if isinstance(piece, Exception) or piece.is_final:
            await self._pieces.put(None)

    def cancel(self) -> None:
        """End the iteration at once. Any number of times."""
        self.is_cancelled = True
        while not self._pieces.empty():  # who waits for room goes on
            self._pieces.get_nowait()
        self._pieces.put_nowait(None)

    def __aiter__(self) -> "TurnFeed":
        return self

    async def __anext__(self) -> Any:
        if self._is_ended or self.is_cancelled:
            raise StopAsyncIteration
        piece = await self._pieces.get()
        if piece is None or self.is_cancelled:
            self._is_ended = True
            raise StopAsyncIteration
        if isinstance(piece, Exception):
            self._is_ended = True
            raise piece
        return piece
