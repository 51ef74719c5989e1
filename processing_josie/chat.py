"""Pictures, videos and sounds inside conversations."""

from typing import Any

from .layout import ARGUMENTS, KINDS
from .sources import decode_base64


def collect_parts(conversations: list[list[dict[str, Any]]]) -> dict[str, list[list[Any]]]:
    """Return the inputs of each kind, for each conversation in order; they are not read yet.

    Args:
        conversations (`list[list[dict]]`): Messages; parts of their `content` are dicts with `type` and, for a picture,
            video or sound, the input under its type, `url`, `path` or `base64`, and `sampling_rate` with an array.

    Raises:
        `ValueError`: A part has no input.
    """
    found: dict[str, list[list[Any]]] = {kind: [[] for _ in conversations] for kind in KINDS}
    for row, conversation in enumerate(conversations):
        for message in conversation:
            content = message.get("content")
            for part in content if isinstance(content, (list, tuple)) else []:
                if isinstance(part, dict) and part.get("type") in KINDS:
                    found[part["type"]][row].append(part_value(part))
    return found


def part_value(part: dict[str, Any]) -> Any:
    """Return the input of a part, in a form that its processor takes.

    Raises:
        `ValueError`: It has none.
    """
    kind = part["type"]
    for key in (kind, "url", "path", "base64"):
        value = part.get(key)
        if value is None:
            continue
        if key == "base64":
            value = decode_base64(value, ARGUMENTS[kind])
        rate = part.get("sampling_rate") if kind == "audio" else None
        return value if rate is None else (value, rate)
    raise ValueError(
        f"A content part of type {kind!r} must have {kind!r}, 'url', 'path' or 'base64', got {sorted(part)}."
    )
