"""`POST /v1/audio/speech`: a text said aloud."""

import base64
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..engine import AnswerOptions, Engine
from ..errors import ClientError
from ..token_stream import Piece
from .bodies import AudioStream, Pieces, read_json, stream_events
from .containers import MEDIA_TYPES, Container
from .spoken_words import SpokenWords


async def speak(engine: Engine, request: Request) -> Response:
    """Say a text in a container of audio, as a stream where the container can be one."""
    limits = engine.limits
    fields = await read_json(request)
    engine.require_model(fields.required_text("model"))
    text = fields.required_text("input", limits.max_text_length)
    voice = engine.find_voice(fields.text("voice"))
    form = fields.choice("response_format", tuple(MEDIA_TYPES), "mp3")
    speed = fields.number("speed", *((0.5, 2.0) if engine.has_word_times else (1.0, 1.0)), 1.0) or 1.0
    is_events = fields.choice("stream_format", ("audio", "sse"), "audio") == "sse"
    wants_words = fields.flag("word_timestamps", False)
    fields.only("instructions", "")
    fields.done()
    if not engine.speaks:
        raise ClientError("`model` must be one that speaks, got one that does not.", "model")
    if not text.strip():
        raise ClientError("`input` must have at least one word to say, got none.", "input")
    if wants_words and not (is_events and engine.has_word_times):
        required = 'go with `stream_format: "sse"` and a model that knows when words are heard'
        raise ClientError(f"`word_timestamps` must {required}.", "word_timestamps")
    job = engine.say(text, AnswerOptions(speaks=True, voice=voice, speed=speed))
    pieces = await Pieces(job, limits.response_seconds).begin()
    container = Container(form, engine.sampling_rate)
    if is_events:
        words = SpokenWords(engine.decode) if wants_words else None
        return stream_events(_events(pieces, container, words))
    media_type = MEDIA_TYPES[form]
    if container.can_stream:
        return AudioStream(_chunks(pieces, container), media_type=media_type)
    chunks, last = [], Piece()
    with container:
        async for last in pieces:
            chunks.append(container.push(last.samples, last.is_final))
    return Response(b"".join(chunks), media_type=media_type, headers={"x-finish-reason": last.finish_reason})


async def _chunks(pieces: Pieces, container: Container) -> AsyncIterator[bytes]:
    with container:
        async for piece in pieces:
            if content := container.push(piece.samples, piece.is_final):
                yield content


async def _events(pieces: Pieces, container: Container, words: SpokenWords | None) -> AsyncIterator[dict[str, Any]]:
    num_tokens, last = 0, Piece()
    with container:
        async for piece in pieces:
            num_tokens, last = num_tokens + len(piece.tokens), piece
            content = container.push(piece.samples, piece.is_final)
            said = None if words is None else words.add(piece)
            if content or said:
                event = {"type": "speech.audio.delta", "audio": base64.b64encode(content).decode()}
                yield event if said is None else event | {"words": said}
    usage = {"input_tokens": num_tokens, "output_tokens": 0, "total_tokens": num_tokens}
    yield {"type": "speech.audio.done", "usage": usage, "finish_reason": last.finish_reason}
