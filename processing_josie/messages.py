"""Messages of conversations: their parts, and the images, videos and audio inside them."""

from typing import Any

from .sources import decode_base64

MODALITIES = ("image", "video", "audio")  # also the order in front of a text without placeholders
ARGUMENTS = {"image": "images", "video": "videos", "audio": "audio"}

Conversation = list[dict[str, Any]]


def list_parts(message: dict[str, Any]) -> list[Any]:
    """Return the parts of a message's content; a string is one."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content) if isinstance(content, (list, tuple)) else []


def is_audio_part(part: Any) -> bool:
    """Return whether a part of a message's content is a sound."""
    return isinstance(part, dict) and part.get("type") == "audio"


def collect_parts(conversations: list[list[dict[str, Any]]]) -> dict[str, list[list[Any]]]:
    """Return the inputs of each modality, for each conversation in order; they are not read yet.

    Args:
        conversations (`list[list[dict]]`): Messages; parts of their `content` are dicts with `type` and, for a picture,
            video or sound, the input under its type, `url`, `path` or `base64`, and `sampling_rate` with an array.

    Raises:
        `ValueError`: A part has no input.
    """
    found: dict[str, list[list[Any]]] = {modality: [[] for _ in conversations] for modality in MODALITIES}
    for row, conversation in enumerate(conversations):
        for message in conversation:
            content = message.get("content")
            for part in content if isinstance(content, (list, tuple)) else []:
                if isinstance(part, dict) and part.get("type") in MODALITIES:
                    found[part["type"]][row].append(part_value(part))
    return found


def part_value(part: dict[str, Any]) -> Any:
    """Return the input of a part, in a form that its processor takes.

    Raises:
        `ValueError`: It has none.
    """
    modality = part["type"]
    for key in (modality, "url", "path", "base64"):
        value = part.get(key)
        if value is None:
            continue
        if key == "base64":
            value = decode_base64(value, ARGUMENTS[modality])
        rate = part.get("sampling_rate") if modality == "audio" else None
        return value if rate is None else (value, rate)
    raise ValueError(
        f"A content part of type {modality!r} must have {modality!r}, 'url', 'path' or 'base64', got {sorted(part)}."
    )
