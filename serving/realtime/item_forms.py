"""Items as clients send them."""

from typing import Any

from ..engine import Engine
from ..errors import ClientError
from ..fields import Fields
from ..limits import Limits
from ..media import decode_base64, decode_image, decode_pcm
from .conversation import Item, Part, new_id

_ROLES = ("user", "assistant", "system")
_KINDS = {
    "user": ("input_text", "input_audio", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text", "text"),
}
_MAX_PARTS = 64


def read_item(fields: Fields, engine: Engine) -> Item:
    """Return the item that a client sends.

    Args:
        fields ([`Fields`]): It.
        engine ([`Engine`]): The model, which may read it or not, and the limits of its content.

    Raises:
        [`ClientError`]: It is no message, or a part of it cannot be read.
    """
    fields.only("object", "realtime.item")
    fields.only("status", "completed", "incomplete", "in_progress")
    if fields.choice("type", ("message",), "") == "":
        fields.fail("type", 'be "message"', None)
    role: Any = fields.choice("role", _ROLES, "user")
    item_id = fields.text("id", max_length=64) or new_id("item")
    parts = [_read_part(part, role, engine) for part in fields.objects("content", _MAX_PARTS)]
    if not parts:
        fields.fail("content", "have at least one part", "none")
    fields.done()
    return Item(item_id, role, parts)


def _read_part(fields: Fields, role: str, engine: Engine) -> Part:
    limits = engine.limits
    kind = fields.choice("type", _KINDS[role], "")
    if not kind:
        fields.fail("type", f"be one of {list(_KINDS[role])}", None)
    if kind.endswith("text"):
        text = fields.required_text("text", limits.max_text_length)
        part = Part("text", engine.require_plain(text, fields.name("text")))
    else:
        modality = kind.removeprefix("input_")
        if not engine.takes(modality):
            raise ClientError(f"`{fields.path}` must be of another type: this model takes no {modality}.", fields.path)
        if modality == "audio":
            part = _read_audio(fields, limits)
        else:
            url = fields.required_text("image_url", limits.max_body_bytes)
            fields.only("detail", "auto", "low", "high")
            part = Part("image", image=decode_image(url, fields.name("image_url"), limits))
    fields.done()
    return part


def _read_audio(fields: Fields, limits: Limits) -> Part:
    name = fields.name("audio")
    content = decode_base64(fields.required_text("audio", limits.max_body_bytes), name)
    samples = decode_pcm(content, name)
    if not 0 < len(samples) <= limits.max_audio_seconds * 24000:
        fields.fail("audio", f"have some samples and at most {limits.max_audio_seconds:g} s", f"{len(samples)} samples")
    return Part("audio", fields.text("transcript", max_length=limits.max_text_length), samples=samples)
