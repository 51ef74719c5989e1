"""One answer of a session: pieces of the model become events, until it ends or is cancelled."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np

from ...processing_josie.resampling import StreamResampler
from ..errors import ClientError, server_failure
from ..media import PCM_RATE, encode_pcm
from ..token_stream import Piece
from .conversation import Item, Part, Spoken, new_id
from .settings import SessionSettings

logger = logging.getLogger(__name__)

_DELTA = PCM_RATE // 5  # samples of the longest delta
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Pieces(Protocol):
    """An asynchronous iterator over the [`Piece`]s of an answer: a [`Job`] or a [`TurnFeed`]."""

    def cancel(self) -> None:
        """End the iteration at once."""
        ...

    def __aiter__(self) -> "Pieces": ...

    async def __anext__(self) -> Any: ...


class Response:
    """An answer that is made.

    Args:
        settings ([`SessionSettings`]): Of it.
        send (`Callable`): Sends an event.
        begin (`Callable`): Begins the work, and gives its [`Pieces`].
        decode (`Callable`): Gives the text of tokens.
    """

    def __init__(
        self,
        settings: SessionSettings,
        send: Send,
        begin: Callable[[], Pieces],
        decode: Callable[[list[int]], str],
    ):
        self.settings, self._send, self._begin_work, self._decode = settings, send, begin, decode
        self.id = new_id("resp")
        kind = "audio" if settings.speaks else "text"
        self.item = Item(new_id("item"), "assistant", [Part(kind, "")], "in_progress")
        if settings.speaks:
            self.item.spoken = Spoken(sampling_rate=settings.engine.sampling_rate)
        self.reason: str | None = None  # why it was cancelled
        self._job: Pieces | None = None
        self._status, self._error, self._is_cut = "in_progress", None, False
        self._usage = (0, 0)  # tokens read and written
        self._resampler = StreamResampler(self.item.spoken.sampling_rate, PCM_RATE) if self.item.spoken else None

    def cancel(self, reason: str) -> None:
        """End it; nothing but its end is sent from now on. The first reason counts."""
        if self.reason is None and self._status == "in_progress":
            self.reason = reason
            if self._job is not None:
                self._job.cancel()

    async def run(self, add_item: Callable[[Item], Awaitable[None]]) -> None:
        """Make the answer and send its events.

        Args:
            add_item (`Callable`): Adds an item to the conversation, and tells of it.
        """
        await self._tell("response.created", response=self.to_event())
        status, error = "completed", None
        try:
            await self._begin(add_item)
            async with asyncio.timeout(self.settings.engine.limits.response_seconds):
                await self._take_pieces()
            status = "incomplete" if self._is_cut else "completed"
        except ClientError as raised:
            status, error = "failed", raised
        except TimeoutError:
            status, error = "failed", ClientError("The answer took too long.", code="timeout")
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("An answer failed.")
            status, error = "failed", server_failure()
        finally:
            if self._job is not None:
                self._job.cancel()
        self._status, self._error = ("cancelled" if self.reason else status), error
        await self._finish()

    async def _begin(self, add_item: Callable[[Item], Awaitable[None]]) -> None:
        if self.reason is None:
            self._job = self._begin_work()
        await self._tell("response.output_item.added", item=self.item.to_event())
        await add_item(self.item)
        await self._tell("response.content_part.added", **self._place(), part=self._part())

    async def _take_pieces(self) -> None:
        if self._job is None:
            return
        async for piece in self._job:
            if self.reason is not None:
                return
            await self._take(piece)
            if self.reason is not None:
                return

    async def _take(self, piece: Piece) -> None:
        part, spoken = self.item.parts[0], self.item.spoken
        if piece.is_final:
            self._is_cut = piece.is_cut
        self._usage = piece.num_prompt_tokens, self._usage[1] + len(piece.tokens)
        if piece.text:
            part.text = (part.text or "") + piece.text
            name = "response.output_audio_transcript.delta" if spoken else "response.output_text.delta"
            await self._tell(name, **self._place(), delta=piece.text)
        if spoken is None or self._resampler is None:
            return
        spoken.tokens += piece.tokens
        spoken.word_times += piece.word_times
        spoken.num_samples += len(piece.samples)
        if len(piece.samples) or piece.is_final:
            await self._send_audio(self._resampler.push(piece.samples[None], is_final=piece.is_final)[0])

    async def _send_audio(self, samples: np.ndarray) -> None:
        spoken: Any = self.item.spoken
        for start in range(0, len(samples), _DELTA):
            if self.reason is not None:
                return
            chunk = samples[start : start + _DELTA]
            delta = base64.b64encode(encode_pcm(chunk)).decode()
            spoken.num_sent += len(chunk)
            heard = {"transcript_end": len(self.text_until(spoken.num_sent / PCM_RATE))} if spoken.word_times else {}
            await self._tell("response.output_audio.delta", **self._place(), delta=delta, **heard)

    def take_back(self, events: list[dict[str, Any]]) -> None:
        """Count audio that was taken out of the outbox as not sent."""
        spoken = self.item.spoken
        if spoken is not None:
            audio = [event["delta"] for event in events if event["type"] == "response.output_audio.delta"]
            spoken.num_sent -= sum(len(base64.b64decode(delta)) // 2 for delta in audio)

    async def _finish(self) -> None:
        part, spoken = self.item.parts[0], self.item.spoken
        self.item.status = "completed" if self._status == "completed" else "incomplete"
        if self._status == "cancelled" and spoken is not None:
            part.text = self.text_until(spoken.num_sent / PCM_RATE)
        if spoken is not None:
            await self._tell("response.output_audio.done", **self._place())
            await self._tell("response.output_audio_transcript.done", **self._place(), transcript=part.text)
        else:
            await self._tell("response.output_text.done", **self._place(), text=part.text)
        await self._tell("response.content_part.done", **self._place(), part=self._part())
        await self._tell("response.output_item.done", item=self.item.to_event())
        await self._send({"type": "conversation.item.done", "item": self.item.to_event()})
        await self._tell("response.done", response=self.to_event())

    def text_until(self, seconds: float) -> str:
        """Return the words that were heard after so much time."""
        return heard_text(self.item, seconds, self._decode)

    def _part(self) -> dict[str, Any]:
        text = self.item.parts[0].text or ""
        return {"type": "audio", "transcript": text} if self.item.spoken else {"type": "text", "text": text}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item.id, "content_index": 0}

    async def _tell(self, kind: str, **values: Any) -> None:
        event: dict[str, Any] = {"type": kind}
        if kind not in ("response.created", "response.done"):
            event |= {"response_id": self.id, "output_index": 0}
        await self._send(event | values)

    def to_event(self) -> dict[str, Any]:
        """Return it as a client reads it."""
        details: dict[str, Any] | None = None
        if self._status == "cancelled":
            details = {"type": "cancelled", "reason": self.reason}
        elif self._status == "incomplete":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
        elif self._error is not None:
            error = self._error.to_dict()
            details = {"type": "failed", "error": error}
        is_over = self._status != "in_progress"
        num_read, num_written = self._usage
        usage = {"input_tokens": num_read, "output_tokens": num_written, "total_tokens": num_read + num_written}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": self._status,
            "status_details": details,
            "output": [self.item.to_event()] if is_over else [],
            "output_modalities": ["audio" if self.settings.speaks else "text"],
            "max_output_tokens": self.settings.max_tokens,
            "metadata": None,
            "usage": usage if is_over else None,
        }


def heard_text(item: Item, seconds: float, decode: Callable[[list[int]], str]) -> str:
    """Return the words of a spoken item that were heard after so much time.

    Args:
        item ([`Item`]): A turn of the model.
        seconds (`float`): Time that was played, from the beginning of the item.
        decode (`Callable`): Gives the text of tokens.
    """
    spoken = item.spoken
    if spoken is None:
        return item.parts[0].text or ""
    return decode(spoken.tokens[: spoken.count_heard(seconds)])
