"""`POST /v1/audio/transcriptions`: a clip written down."""

import asyncio

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..engine import Engine
from ..errors import ClientError
from ..fields import Fields
from ..media import decode_clip
from .bodies import limit_body

_READ_SECONDS = 60.0


async def transcribe(engine: Engine, request: Request) -> Response:
    """Write down what is said in a file that is sent as a form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ClientError("The request must be multipart/form-data, with a `file`.", code="invalid_form")
    limited = limit_body(request, engine.limits.max_body_bytes)
    try:
        async with asyncio.timeout(_READ_SECONDS), limited.form(max_files=1, max_fields=16) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise ClientError("`file` must be an audio file.", "file")
            content = await upload.read()
            fields = Fields({name: value for name, value in form.items() if name != "file"})
    except TimeoutError as error:
        raise ClientError("The request took too long.", code="timeout", status=408) from error
    engine.require_model(fields.required_text("model"))
    kind = fields.choice("response_format", ("json", "text"), "json")
    fields.only("stream", "false")
    fields.only("temperature", "0", "0.0")
    fields.only("prompt", "")
    fields.done()
    if not engine.takes("audio"):
        raise ClientError("`model` must be one that takes audio, got one that does not.", "model")
    samples, rate = await asyncio.to_thread(decode_clip, content, "file", engine.limits)
    async with asyncio.timeout(engine.limits.response_seconds):
        text = await engine.transcribe(samples, rate)
    if kind == "text":
        return PlainTextResponse(text + "\n")
    return JSONResponse({"text": text, "usage": {"type": "duration", "seconds": len(samples) / rate}})
