"""A session: what each event of a client does."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from ..engine import Engine
from ..errors import ClientError, server_failure
from ..fields import Fields, parse_object
from ..media import PCM_RATE, decode_base64, decode_pcm, to_float
from .conversation import Conversation, Item, Part, new_id
from .duplex import Duplex
from .item_forms import read_item
from .outbox import Outbox
from .response import Response, heard_text
from .settings import SessionSettings
from .turn_detection import ModelTurns, TurnDetector, TurnSettings
from .turn_feed import TurnFeed
from .written_words import Writer

logger = logging.getLogger(__name__)

_SLICE = PCM_RATE // 2  # samples that are heard before other sessions have their turn


class Session:
    """A conversation with one client.

    Args:
        engine ([`Engine`]): What answers.
        outbox ([`Outbox`]): Takes what is to be sent.
    """

    def __init__(self, engine: Engine, outbox: Outbox):
        self.engine, self.outbox = engine, outbox
        self.id = new_id("sess")
        self.expires_at = int(time.time() + engine.limits.session_seconds)
        self.settings = SessionSettings.begin(engine)
        self.conversation = Conversation(engine.limits)
        self.response: Response | None = None
        self._making: asyncio.Task | None = None
        self._writer = Writer(engine, self.send, self._rest)
        self._buffer = np.zeros(0, dtype=np.int16)
        self._num_heard = 0  # samples since the beginning
        self._detector: TurnDetector | None = None
        self._duplex: Duplex | None = None  # where the model decides when to speak, from the first audio on
        self._turn_id: str | None = None
        self._handlers: dict[str, Callable[[Fields], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit_now,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.truncate": self._truncate_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
        }

    async def begin(self) -> None:
        """Greet the client."""
        self._detector = self._listen(self.settings.turns)
        await self.send("session.created", session=self._describe())

    async def send(self, kind: str, **values: Any) -> None:
        """Send an event."""
        await self._put({"type": kind, **values})

    async def _put(self, event: dict[str, Any]) -> None:
        await self.outbox.put({"event_id": new_id("event")} | event)

    async def receive(self, text: str | bytes) -> None:
        """Do what an event asks for; what is wrong with it is told to the client."""
        event_id = None
        try:
            fields = parse_object(text, "an event")
            event_id = fields.text("event_id", max_length=512)
            kind = fields.take("type")
            handler = self._handlers.get(kind) if isinstance(kind, str) else None
            if handler is None:
                fields.fail("type", f"be one of {list(self._handlers)}", kind)
            await handler(fields)
        except ClientError as error:
            await self.fail(error, event_id)
        except ConnectionError:
            raise
        except Exception:
            logger.exception("An event failed.")
            await self.fail(server_failure(), event_id)

    async def fail(self, error: ClientError, event_id: str | None = None) -> None:
        """Tell the client of an error."""
        await self.send("error", error=error.to_dict() | {"event_id": event_id})

    async def close(self) -> None:
        """End everything that is worked at."""
        if self.response is not None:
            self.response.cancel("client_cancelled")
        tasks = [task for task in (self._making, *self._writer.tasks) if task is not None]
        await self.outbox.close()
        await self._close_duplex()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the session

    def _describe(self) -> dict[str, Any]:
        return self.settings.to_event(self.id, self.expires_at)

    def _listen(self, turns: TurnSettings | ModelTurns | None) -> TurnDetector | None:
        return TurnDetector(turns, self._num_heard) if isinstance(turns, TurnSettings) else None

    @property
    def _is_duplex(self) -> bool:
        """Whether the model decides when to speak."""
        return isinstance(self.settings.turns, ModelTurns)

    def _open_duplex(self) -> Duplex:
        """Return the conversation in full duplex; one that failed begins anew."""
        if self._duplex is None or self._duplex.is_over:
            messages = self.conversation.to_messages(self.settings.instructions)
            self._duplex = Duplex(self.engine, self.settings, messages, self)
        return self._duplex

    async def _close_duplex(self) -> None:
        duplex, self._duplex = self._duplex, None
        if duplex is not None:
            await duplex.close()

    async def _update(self, fields: Fields) -> None:
        session = fields.object("session")
        if session is None:
            fields.fail("session", "be an object", None)
        fields.done()
        settings = self.settings.update(session)
        if self._duplex is not None and isinstance(settings.turns, ModelTurns):
            self._duplex.adopt(settings)
        elif self._duplex is not None:
            await self.interrupt("client_cancelled")
            await self._close_duplex()
        waiting = np.zeros(0, dtype=np.int16)
        if settings.turns != self.settings.turns:
            waiting = await self._change_turns(settings.turns)
        self.settings = settings
        await self.send("session.updated", session=self._describe())
        await self._take(waiting)

    async def _change_turns(self, turns: TurnSettings | ModelTurns | None) -> np.ndarray:
        """Detect turns in another way; one that goes on stays with its detector, or ends as an item of its own.

        Returns:
            `(num_samples,)`, audio that is to be heard anew: nobody has judged or committed it yet.
        """
        waiting = self._buffer[:0]
        if isinstance(turns, TurnSettings) and self._detector is not None:
            self._detector.settings = turns
            return waiting
        if self._turn_id is not None:
            await self._end_turn(self._num_heard)
        if turns is not None:
            waiting, self._buffer = self._buffer, waiting
            self._num_heard -= len(waiting)
        self._detector = self._listen(turns)
        return waiting

    # --- the input buffer

    async def _append(self, fields: Fields) -> None:
        content = fields.text("audio", max_length=self.engine.limits.max_body_bytes)
        if content is None:
            fields.fail("audio", "be a string", None)
        samples = decode_pcm(decode_base64(content, "audio"), "audio")
        fields.done()
        if not self.engine.takes("audio"):
            raise ClientError("`audio` must be left out: this model takes no audio.", "audio")
        room = self.engine.limits.max_audio_seconds * PCM_RATE
        is_kept = not self._is_duplex and self._detector is None
        if not self._is_duplex and len(samples) + is_kept * len(self._buffer) > room:
            raise ClientError(
                f"The input buffer must have at most {room / PCM_RATE:g} s; commit or clear it.", "audio", "buffer_full"
            )
        await self._take(samples)

    async def _take(self, samples: np.ndarray) -> None:
        """Hear samples, `(num_samples,)`, by whatever decides about turns."""
        if self._is_duplex:
            if len(samples):
                self._open_duplex().hear(samples)
            self._num_heard += len(samples)
            return
        for start in range(0, len(samples), _SLICE):
            await self._hear(samples[start : start + _SLICE])
            await asyncio.sleep(0)

    async def _hear(self, samples: np.ndarray) -> None:
        detector = self._detector
        self._buffer = np.concatenate((self._buffer, samples))
        self._num_heard += len(samples)
        if detector is None:
            return
        for edge in detector.push(to_float(samples)):
            if edge.kind == "started":
                await self._start_turn(edge.place)
            else:
                await self._stop_turn(edge.place, edge.speech_end)
            if self._detector is not detector:
                return
        if self._turn_id is None:
            # All that may still belong to a turn: its padding, and what the detector has not judged yet.
            kept = detector.settings.prefix_padding_ms * PCM_RATE // 1000 + PCM_RATE // 2
            self._buffer = self._buffer[-kept:]
        elif len(self._buffer) >= self.engine.limits.max_audio_seconds * PCM_RATE:
            detector.stop()
            await self._stop_turn(self._num_heard)

    async def _start_turn(self, place: int) -> None:
        self._turn_id = new_id("item")
        keep = min(len(self._buffer), self._num_heard - place)  # less where the padding was made longer just now
        place = self._num_heard - keep
        self._buffer = self._buffer[len(self._buffer) - keep :]
        await self.send("input_audio_buffer.speech_started", audio_start_ms=_to_ms(place), item_id=self._turn_id)
        if isinstance(self.settings.turns, TurnSettings) and self.settings.turns.interrupt_response:
            await self.interrupt("turn_detected")

    async def _stop_turn(self, place: int, speech_end: int | None = None) -> None:
        await self._end_turn(place, speech_end)
        if isinstance(self.settings.turns, TurnSettings) and self.settings.turns.create_response:
            await self._answer(self.settings, is_asked=False)

    async def _end_turn(self, place: int, speech_end: int | None = None) -> None:
        """Make an item of a turn, without an answer."""
        await self.send("input_audio_buffer.speech_stopped", audio_end_ms=_to_ms(place), item_id=self._turn_id)
        length = max(len(self._buffer) - max(self._num_heard - place, 0), 1)
        rest = self._buffer[length:]
        if speech_end is not None:  # the silence behind says nothing, and models that know none mishear what is before
            length = max(length - (place - speech_end), 1)
        self._buffer = self._buffer[:length]
        await self._commit()
        self._buffer = rest

    async def _commit_now(self, fields: Fields) -> None:
        fields.done()
        if self._is_duplex:
            raise ClientError(
                "The input buffer must not be committed where the model decides when to speak: it hears all of it.",
                code="input_audio_buffer_commit_of_model",
            )
        if not len(self._buffer) or (self._detector is not None and self._turn_id is None):
            raise ClientError("The input buffer must have audio to commit, got none.", code="input_audio_buffer_empty")
        if self._detector is None:
            await self._commit()
        else:  # whose turn ends here
            self._detector.stop()
            await self._end_turn(self._num_heard)

    async def _commit(self) -> None:
        item = Item(self._turn_id or new_id("item"), "user", [Part("audio", samples=self._buffer)])
        self._buffer, self._turn_id = np.zeros(0, dtype=np.int16), None
        previous = self.conversation.add(item)
        await self.send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        await self._tell_of(item, previous)
        self._transcribe(item)

    async def _clear(self, fields: Fields) -> None:
        fields.done()
        self._buffer, self._turn_id = np.zeros(0, dtype=np.int16), None
        if self._detector is not None:
            self._detector.stop()
        if self._duplex is not None:
            self._duplex.clear()
        await self.send("input_audio_buffer.cleared")

    # --- the conversation

    async def _tell_of(self, item: Item, previous: str | None) -> None:
        await self.send("conversation.item.added", item=item.to_event(), previous_item_id=previous)
        if item.status != "in_progress":
            await self.send("conversation.item.done", item=item.to_event(), previous_item_id=previous)
        for old in self.conversation.forget():
            await self.send("conversation.item.deleted", item_id=old.id)

    async def _create_item(self, fields: Fields) -> None:
        form, previous_id = fields.object("item"), fields.text("previous_item_id", max_length=64)
        if form is None:
            fields.fail("item", "be an object", None)
        fields.done()
        item = await asyncio.to_thread(read_item, form, self.engine)
        if self._duplex is not None and not self._duplex.is_over:
            await self._show(self._duplex, item, previous_id)
        previous = self.conversation.add(item, previous_id)
        await self._tell_of(item, previous)
        self._transcribe(item)

    async def _show(self, duplex: Duplex, item: Item, previous_id: str | None) -> None:
        """Show the images of an item to a model that listens."""
        last_id = self.conversation.items[-1].id if self.conversation.items else "root"
        if previous_id not in (None, last_id):
            raise ClientError(
                "`previous_item_id` must be left out where the model has heard audio: what is new comes now.",
                "previous_item_id",
                "invalid_value",
            )
        if item.role != "user" or any(part.image is None for part in item.parts):
            raise ClientError(
                "`item.content` must have images of the user alone where the model decides when to speak and has heard "
                "audio; say the rest, or send it before.",
                "item.content",
                "invalid_value",
            )
        for part in item.parts:
            await duplex.show(part.image)

    def _take_id(self, fields: Fields) -> str:
        return fields.required_text("item_id", 64)

    async def _delete_item(self, fields: Fields) -> None:
        place = self.conversation.place(self._take_id(fields))
        fields.done()
        item = self.conversation.items[place]
        if item.status == "in_progress":
            raise ClientError("`item_id` must be an item that is finished; cancel its response first.", "item_id")
        if self._duplex is not None and not self._duplex.is_over:
            raise ClientError(
                "`item_id` must stay where the model decides when to speak and has heard audio: it forgets nothing on "
                "demand.",
                "item_id",
                "invalid_value",
            )
        del self.conversation.items[place]
        await self.send("conversation.item.deleted", item_id=item.id)

    async def _retrieve_item(self, fields: Fields) -> None:
        place = self.conversation.place(self._take_id(fields))
        fields.done()
        await self.send("conversation.item.retrieved", item=self.conversation.items[place].to_event())

    async def _truncate_item(self, fields: Fields) -> None:
        item = self.conversation.items[self.conversation.place(self._take_id(fields))]
        fields.integer("content_index", 0, 0, 0)
        end_ms = fields.integer("audio_end_ms", 0, 1 << 40)
        fields.done()
        spoken = item.spoken
        if spoken is None:
            raise ClientError("`item_id` must be an answer that was said.", "item_id", "invalid_value")
        if end_ms is None or end_ms > -(-spoken.num_sent * 1000 // PCM_RATE):
            fields.fail("audio_end_ms", f"be in [0, {_to_ms(spoken.num_sent)}], what was sent", end_ms)
        if item.status == "in_progress" and self.response is not None:
            await self.interrupt("client_cancelled")
        item.parts[0].text = heard_text(item, end_ms / 1000, self.engine.decode)
        spoken.num_sent = min(spoken.num_sent, end_ms * PCM_RATE // 1000)
        text = item.parts[0].text
        await self.send(
            "conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=end_ms, transcript=text
        )

    # --- answers

    async def _create_response(self, fields: Fields) -> None:
        settings = self.settings.in_effect.for_response(fields.object("response"))
        fields.done()
        if self._duplex is not None:
            await self._ask(settings)
        else:
            await self._answer(settings, is_asked=True)

    async def _ask(self, settings: SessionSettings) -> None:
        """Make a model that decides when to speak do so with the next unit."""
        if settings != self.settings.in_effect:
            raise ClientError(
                "`response` must be left out where the model decides when to speak.", "response", "invalid_value"
            )
        duplex = self._open_duplex()  # another one if it failed
        if duplex.is_answering or self.response is not None:
            raise ClientError(
                "There must be no other answer being made or asked for.",
                code="conversation_already_has_active_response",
            )
        duplex.ask()

    async def begin_turn(self, feed: TurnFeed) -> None:
        """Answer with a turn that the model takes by itself; see [`Answers`]."""
        await self._rest()  # until the last one's end is told
        self.response = Response(self.settings.in_effect, self._put, lambda: feed, self.engine.decode)
        self._making = asyncio.create_task(self._make(self.response))
        self._making.add_done_callback(lambda _: feed.cancel())

    async def _cancel_response(self, fields: Fields) -> None:
        response_id = fields.text("response_id", max_length=64)
        fields.done()
        is_other = self.response is not None and response_id not in (None, self.response.id)
        if self.response is None or is_other:
            raise ClientError("There must be an answer to cancel, got none.", code="response_cancel_not_active")
        await self.interrupt("client_cancelled")

    async def interrupt(self, reason: str) -> None:
        """End the answer that is being made, if any, and wait until its end is told."""
        response, making = self.response, self._making
        if response is not None and making is not None:
            response.cancel(reason)
            response.take_back(await self.outbox.take_back(response.id))
            await asyncio.wait([making])

    async def _answer(self, settings: SessionSettings, is_asked: bool) -> None:
        if self.response is not None:
            if not is_asked:  # the speaker was not to interrupt it
                return
            raise ClientError(
                f"There must be no other answer being made, got {self.response.id}.",
                code="conversation_already_has_active_response",
            )
        messages = self.conversation.to_messages(settings.instructions)
        if not any(message["role"] == "user" for message in messages):
            raise ClientError("The conversation must have something of the user to answer, got nothing.", code="empty")
        options = settings.answer_options()
        self.response = Response(
            settings, self._put, lambda: self.engine.answer(messages, options, may_forget=True), self.engine.decode
        )
        self._making = asyncio.create_task(self._make(self.response))

    async def _make(self, response: Response) -> None:
        async def add(item: Item) -> None:
            await self._tell_of(item, self.conversation.add(item))

        try:
            await response.run(add)
        except ConnectionError:
            logger.debug("A client left while it was answered.")
        finally:
            self.response = self._making = None

    async def _rest(self) -> None:
        """Wait until no answer is being made."""
        while self._making is not None:
            await asyncio.wait([self._making])

    def _transcribe(self, item: Item) -> None:
        if self.settings.in_effect.transcribes:
            self._writer.add(item)


def _to_ms(num_samples: int) -> int:
    return num_samples * 1000 // PCM_RATE
