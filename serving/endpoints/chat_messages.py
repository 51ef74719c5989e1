"""Messages of a chat as clients send them, and as a model reads them."""

from typing import Any

from ..engine import Engine
from ..errors import ClientError
from ..fields import Fields
from ..media import decode_base64, decode_clip, decode_image, find_form

_ROLES = ("system", "developer", "user", "assistant")
_MAX_PARTS = 64


def read_messages(engine: Engine, messages: list[Fields]) -> list[dict[str, Any]]:
    """Return the messages that a model reads.

    Raises:
        [`ClientError`]: One of them has a part that is unknown, or that this model does not take.
    """
    read: list[dict[str, Any]] = []
    num_images = num_letters = 0
    for message in messages:
        role = message.choice("role", _ROLES, "")
        if not role:
            message.fail("role", f"be one of {list(_ROLES)}", None)
        parts = _read_content(engine, message, role)
        message.only("name", "")
        for name in ("refusal", "audio", "tool_calls", "function_call", "annotations"):
            message.only(name, [])
        message.done()
        num_images += sum(part["type"] == "image" for part in parts)
        num_letters += sum(len(part.get("text", "")) for part in parts)
        content: Any = parts if role == "user" else "".join(part["text"] for part in parts)
        read.append({"role": "system" if role == "developer" else role, "content": content})
    if not read or read[-1]["role"] != "user":
        raise ClientError("`messages` must end with one of the user.", "messages", "invalid_value")
    if num_images > engine.limits.max_images or num_letters > engine.limits.max_text_length:
        limits = f"{engine.limits.max_images} images and {engine.limits.max_text_length} characters"
        raise ClientError(f"`messages` must have at most {limits}.", "messages", "too_large")
    return read


def _read_content(engine: Engine, message: Fields, role: str) -> list[dict[str, Any]]:
    if isinstance(message.peek("content"), str):
        text = message.text("content", "", engine.limits.max_text_length) or ""
        return [{"type": "text", "text": engine.require_plain(text, message.name("content"))}]
    content = message.take("content")
    if not isinstance(content, list) or not 0 < len(content) <= _MAX_PARTS:
        message.fail("content", f"be a string, or a list of 1 to {_MAX_PARTS} parts", content)
    parts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            message.fail(f"content[{number}]", "be an object", part)
        parts.append(_read_part(engine, Fields(part, message.name(f"content[{number}]")), role))
    return parts


def _read_part(engine: Engine, part: Fields, role: str) -> dict[str, Any]:
    allowed = ("text", "image_url", "input_audio") if role == "user" else ("text",)
    kind = part.choice("type", allowed, "")
    if not kind:
        part.fail("type", f"be one of {list(allowed)}", None)
    if kind == "text":
        text = part.required_text("text", engine.limits.max_text_length)
        read: dict[str, Any] = {"type": "text", "text": engine.require_plain(text, part.name("text"))}
        part.done()
        return read
    modality, inner = ("image" if kind == "image_url" else "audio"), part.object(kind)
    if inner is None:
        part.fail(kind, "be an object", None)
    if not engine.takes(modality):
        raise ClientError(f"`{part.path}` must be of another type: this model takes no {modality}.", part.path)
    if modality == "image":
        url = inner.required_text("url", engine.limits.max_body_bytes)
        inner.only("detail", "auto", "low", "high")
        read = {"type": "image", "image": decode_image(url, inner.name("url"), engine.limits)}
    else:
        content = decode_base64(inner.required_text("data", engine.limits.max_body_bytes), inner.name("data"))
        form = inner.choice("format", ("wav", "mp3", "flac", "ogg"), "")
        samples, rate = decode_clip(content, inner.name("data"), engine.limits)
        if form and (found := find_form(content)) != form:
            inner.fail("format", f"be left out or be that of its `data`, {found!r}", form)
        read = {"type": "audio", "audio": samples, "sampling_rate": rate}
    inner.done()
    part.done()
    return read
