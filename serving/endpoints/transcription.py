"""`POST /v1/audio/transcriptions`: a clip written down."""

import asyncio

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..engine import Engine
from ..errors import ClientError
from ..fields import Fields, printable
from ..media import decode_clip

_MAX_FIELDS = 16  # of a form, besides its file


async def transcribe(engine: Engine, request: Request) -> Response:
    """Write down what is said in a file that is sent as a form."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ClientError("The request must be multipart/form-data, with a `file`.", code="invalid_form")
    try:
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise ClientError("`file` must be an audio file.", "file")
            content, fields = await upload.read(), _read_fields(form)
    except HTTPException as error:  # what starlette says of forms
        required = f"a whole form with one file and at most {_MAX_FIELDS} other fields"
        raise ClientError(
            f"The request must be {required}, got another: {error.detail}", code="invalid_form"
        ) from error
    engine.require_model(fields.required_text("model"))
    kind = fields.choice("response_format", ("json", "text"), "json")
    fields.only("stream", "false")
    fields.only("temperature", "0", "0.0")
    fields.only("prompt", "")
    fields.done()
    if not engine.takes("audio"):
        raise ClientError("`model` must be one that takes audio, got one that does not.", "model")
    samples, rate = await asyncio.to_thread(decode_clip, content, "file", engine.limits)
    text = await engine.transcribe(samples, rate)
    if kind == "text":
        return PlainTextResponse(text + "\n")
    return JSONResponse({"text": text, "usage": {"type": "duration", "seconds": len(samples) / rate}})


def _read_fields(form: FormData) -> Fields:
    """Return the fields of a form besides its file; none may come twice."""
    values: dict[str, object] = {}
    for name, value in form.multi_items():
        if name in values:
            shown = printable(name[:100])
            raise ClientError(f"`{shown}` must be given once, got it more than once.", shown, "invalid_value")
        values[name] = value
    del values["file"]
    return Fields(values)
