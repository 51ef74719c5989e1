"""`POST /v1/chat/completions`: a conversation answered, in text or in text and speech."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..engine import AnswerOptions, Engine
from ..errors import ClientError
from ..fields import Fields
from ..realtime.conversation import new_id
from ..token_stream import Piece
from .bodies import Pieces, read_json, stream_events
from .chat_messages import read_messages
from .containers import MEDIA_TYPES, Container, encode

_DEFAULT_TOKENS = 256


@dataclass
class _Asked:
    """Options of a request: of the answer, and of how it is sent."""

    options: AnswerOptions
    form: str = "wav"
    is_stream: bool = False
    has_usage: bool = False


async def complete(engine: Engine, request: Request) -> Response:
    """Answer a conversation, at once or as a stream of events."""
    fields = await read_json(request)
    engine.require_model(fields.required_text("model"))
    forms = fields.objects("messages", engine.limits.max_items)
    asked = _read_options(engine, fields)
    messages = await asyncio.to_thread(read_messages, engine, forms)
    pieces = await Pieces(engine.answer(messages, asked.options), engine.limits.response_seconds).begin()
    base = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": engine.name}
    if asked.is_stream:
        return stream_events(_chunks(engine, pieces, asked, base), end="[DONE]")
    return JSONResponse(await _whole(engine, pieces, asked, base))


def _read_options(engine: Engine, fields: Fields) -> _Asked:
    limit = engine.limits.max_tokens
    modalities = fields.items("modalities", 2) or ["text"]
    if modalities not in (["text"], ["text", "audio"], ["audio", "text"]):
        fields.fail("modalities", 'be ["text"] or ["text", "audio"]', str(modalities))
    speaks = "audio" in modalities
    if speaks and not engine.speaks:
        raise ClientError('`modalities` must be ["text"], as this model does not speak.', "modalities")
    is_stream = fields.flag("stream", False)
    voice, form = None, "wav"
    audio = fields.object("audio")
    if audio is not None:
        if not speaks:
            fields.fail("audio", 'go with `modalities: ["text", "audio"]`', "none")
        voice = engine.find_voice(audio.text("voice"), "audio.voice")
        form = audio.choice("format", (*MEDIA_TYPES, "pcm16"), "pcm16" if is_stream else "wav")
        audio.done()
    elif is_stream:
        form = "pcm16"
    if speaks and is_stream and form not in ("pcm16", "pcm", "wav", "opus"):
        raise ClientError('`audio.format` must be "pcm16", "wav" or "opus" in a stream.', "audio.format")
    stream_options, has_usage = fields.object("stream_options"), False
    if stream_options is not None:
        if not is_stream:
            fields.fail("stream_options", "go with `stream: true`", "none")
        has_usage = stream_options.flag("include_usage", False)
        stream_options.only("include_obfuscation", False)
        stream_options.done()
    temperature, top_p = fields.temperature(), fields.number("top_p", 1e-6, 1)
    if top_p not in (None, 1) and not temperature:
        fields.fail("top_p", "be 1 or left out without a `temperature` above 0, as nothing is drawn", top_p)
    options = AnswerOptions(
        speaks=speaks,
        max_tokens=_read_max_tokens(fields, limit) or min(_DEFAULT_TOKENS, limit),
        temperature=temperature,
        top_p=top_p,
        voice=voice,
        seed=fields.integer("seed", 0, (1 << 32) - 1),
    )
    fields.only("n", 1)
    fields.only("frequency_penalty", 0)
    fields.only("presence_penalty", 0)
    fields.only("logprobs", False)
    for name in ("stop", "tools", "logit_bias", "functions", "metadata"):
        fields.only(name, [], {})
    fields.only("tool_choice", "none", "auto")
    fields.only("response_format", {"type": "text"})
    fields.text("user")
    fields.only("store", False)
    fields.done()
    return _Asked(options, form, is_stream, has_usage)


def _read_max_tokens(fields: Fields, limit: int) -> int | None:
    """Return the longest answer, which has an old name too."""
    old, new = (fields.integer(name, 1, limit) for name in ("max_tokens", "max_completion_tokens"))
    if None not in (old, new) and old != new:
        fields.fail("max_tokens", f"be left out or be `max_completion_tokens`, {new}", old)
    return old if new is None else new


def _usage(num_read: int, num_written: int) -> dict[str, int]:
    return {"prompt_tokens": num_read, "completion_tokens": num_written, "total_tokens": num_read + num_written}


async def _whole(engine: Engine, pieces: Pieces, asked: _Asked, base: dict[str, Any]) -> dict[str, Any]:
    made: list[Piece] = [piece async for piece in pieces]
    text = "".join(piece.text for piece in made)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if asked.options.speaks:
        samples = np.concatenate([piece.samples for piece in made])
        form = "pcm" if asked.form == "pcm16" else asked.form
        data = base64.b64encode(encode(form, samples, engine.sampling_rate)).decode()
        audio = {"id": new_id("audio"), "data": data, "transcript": text, "expires_at": base["created"]}
        message |= {"content": None, "audio": audio}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": made[-1].finish_reason}
    usage = _usage(made[-1].num_prompt_tokens, sum(len(piece.tokens) for piece in made))
    return base | {"object": "chat.completion", "choices": [choice], "usage": usage}


async def _chunks(engine: Engine, pieces: Pieces, asked: _Asked, base: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    base = base | {"object": "chat.completion.chunk"}
    form, audio_id, num_written = "pcm" if asked.form == "pcm16" else asked.form, new_id("audio"), 0
    speaks = asked.options.speaks
    delta: dict[str, Any] = {"role": "assistant", "content": None if speaks else ""}
    with Container(form, engine.sampling_rate) if speaks else contextlib.nullcontext() as container:
        async for piece in pieces:
            num_written += len(piece.tokens)
            if container is not None:
                content = base64.b64encode(container.push(piece.samples, piece.is_final)).decode()
                if piece.text or content:
                    delta["audio"] = {"id": audio_id, "transcript": piece.text, "data": content}
            elif piece.text:
                delta["content"] = piece.text
            if delta:
                yield base | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
            delta = {}
            if piece.is_final:
                end = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": piece.finish_reason}
                yield base | {"choices": [end]}
                if asked.has_usage:
                    yield base | {"choices": [], "usage": _usage(piece.num_prompt_tokens, num_written)}
