"""Random events for a session: right ones, with fields that are wrong, missing, or of any other type."""

import asyncio
import base64
import json
import random
from collections.abc import Iterable
from typing import Any

from josie.serving.engine import Engine
from josie.serving.realtime.outbox import Outbox
from josie.serving.realtime.session import Session

KINDS = (
    *("session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"),
    *("conversation.item.create", "conversation.item.delete", "conversation.item.retrieve"),
    *("conversation.item.truncate", "response.create", "response.cancel", "session.close", ""),
)
NAMES = (
    *("type", "event_id", "session", "audio", "item", "item_id", "content", "content_index", "audio_end_ms", "role"),
    *("response", "response_id", "output_modalities", "instructions", "max_output_tokens", "input", "output", "text"),
    *(
        "turn_detection",
        "transcription",
        "voice",
        "speed",
        "image_url",
        "id",
        "previous_item_id",
        "threshold",
        "format",
    ),
)
LEAVES = (None, True, -1, 0, 1e308, 10**30, "", "a", "root", "data:image/png;base64,AAAA", "\ud800", "file:///etc", 0.5)


def draw_value(draw: random.Random, depth: int = 0) -> Any:
    """Return a value of JSON of any type."""
    choice = draw.random()
    if depth > 3 or choice < 0.6:
        return draw.choice((*LEAVES, *KINDS, "message", "user", "input_text", "input_audio", "input_image", ["text"]))
    if choice < 0.7:
        return base64.b64encode(draw.randbytes(draw.randrange(400))).decode()
    if choice < 0.85:
        return [draw_value(draw, depth + 1) for _ in range(draw.randrange(3))]
    return {draw.choice(NAMES): draw_value(draw, depth + 1) for _ in range(draw.randrange(4))}


def draw_event(draw: random.Random) -> str:
    """Return the text of an event."""
    choice = draw.random()
    event = {"type": draw.choice(KINDS)} | {draw.choice(NAMES[1:]): draw_value(draw) for _ in range(draw.randrange(4))}
    if choice < 0.3:
        content = [{"type": "input_text", "text": "a"}, draw_value(draw)][: draw.randrange(1, 3)]
        item = {"type": "message", "role": draw.choice(("user", "assistant", "system", "", None)), "content": content}
        event |= {"type": "conversation.item.create", "item": item}
    elif choice < 0.5:
        audio = base64.b64encode(draw.randbytes(2 * draw.randrange(2000))).decode()
        event = {"type": "input_audio_buffer.append", "audio": audio}
    text = json.dumps(event)
    if choice > 0.9:  # cut or garbled
        place = draw.randrange(len(text))
        return text[:place] + draw.choice(("", "{", "\x00", "[" * 3000, "NaN"))
    return text


def errors_of(engine: Engine, messages: Iterable[str]) -> list[dict[str, Any]]:
    """Return the errors that a session answers to messages, each of which must tell of the client's own fault."""

    async def run() -> list[dict[str, Any]]:
        outbox, events = Outbox(5), []
        session = Session(engine, outbox)

        async def drain() -> None:
            while (event := await outbox.get()) is not None:
                events.append(event)

        draining = asyncio.create_task(drain())
        await session.begin()
        for message in messages:
            await session.receive(message)
        await session.close()
        await draining
        return events

    errors = [event["error"] for event in asyncio.run(run()) if event["type"] == "error"]
    assert not [error for error in errors if error["code"] == "internal_error"]
    assert all(error["message"] for error in errors)
    return errors
