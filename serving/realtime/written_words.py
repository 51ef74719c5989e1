"""Transcriptions of what a user says, each told when the answer to it is made, which it must not delay."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..engine import Engine
from ..errors import ClientError, server_failure
from ..media import PCM_RATE, to_float
from .conversation import Item, Part

logger = logging.getLogger(__name__)

_KIND = "conversation.item.input_audio_transcription"


class Writer:
    """Writes down items of one session.

    Args:
        engine ([`Engine`]): The model.
        send (`Callable`): Sends an event.
        rest (`Callable`): Returns when no answer is being made.
    """

    def __init__(self, engine: Engine, send: Callable[..., Awaitable[None]], rest: Callable[[], Awaitable[None]]):
        self._engine, self._send, self._rest = engine, send, rest
        self.tasks: set[asyncio.Task[None]] = set()

    def add(self, item: Item) -> None:
        """Write down each part of an item that has audio and no text yet."""
        parts = [(n, part) for n, part in enumerate(item.parts) if part.samples is not None and part.text is None]
        if parts:
            task = asyncio.create_task(self._write(item, parts))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _write(self, item: Item, parts: list[tuple[int, Part]]) -> None:
        try:
            for index, part in parts:
                await asyncio.sleep(0)
                await self._rest()
                await self._write_part(part, item_id=item.id, content_index=index)
        except ConnectionError:
            logger.debug("A client left while its words were written down.")

    async def _write_part(self, part: Part, **place: Any) -> None:
        samples: Any = part.samples
        try:
            part.text = await self._engine.transcribe(to_float(samples), PCM_RATE)
            usage = {"type": "duration", "seconds": len(samples) / PCM_RATE}
            await self._send(f"{_KIND}.completed", **place, transcript=part.text, usage=usage)
        except ConnectionError:
            raise
        except Exception as error:
            told = error if isinstance(error, ClientError) else server_failure()
            if told is not error:
                logger.exception("A transcription failed.")
            await self._send(f"{_KIND}.failed", **place, error=told.to_dict())
