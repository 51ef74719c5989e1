"""Messages of conversations: their parts, and the images, videos and audio inside them."""

from collections.abc import Callable
from typing import Any

from .encoded_clips import EncodedClip
from .nested_values import is_nested, to_list
from .sources import WithOptions, decode_base64

_NOT_LOCAL = ("http://", "https://", "data:", "file:")
MODALITIES = ("image", "video", "audio")  # also the order in front of a text without placeholders
ARGUMENTS = {"image": "images", "video": "videos", "audio": "audio"}
# Options of a part, beside its input; those of images and videos are settings of their processors.
PART_OPTIONS = {
    "image": ("min_pixels", "max_pixels"),
    "video": ("fps", "num_frames", "max_frames", "do_sample_frames", "min_pixels", "max_pixels", "video_metadata"),
    "audio": ("sampling_rate", "text", "codes", "features"),
}

Conversation = list[dict[str, Any]]


def list_parts(message: dict[str, Any]) -> list[Any]:
    """Return the parts of a message's content; a string is one."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content) if isinstance(content, (list, tuple)) else []


def is_audio_part(part: Any) -> bool:
    """Return whether a part of a message's content is audio."""
    return isinstance(part, dict) and part.get("type") == "audio"


def collect_parts(conversations: list[list[dict[str, Any]]]) -> dict[str, list[list[Any]]]:
    """Return the inputs of each modality, for each conversation in order; they are not read yet.

    Args:
        conversations (`list[list[dict]]`): Messages; parts of their `content` are dicts with `type` and, for an image,
            video or audio, the input under its type, `url`, `path` or `base64`, and `sampling_rate` with an array.

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
    """Return the input of a part, in a form that its processor takes, with the options that the part has.

    Raises:
        `ValueError`: It has none, or several.
    """
    modality = part["type"]
    if modality == "audio" and part.get("features") is not None:
        return EncodedClip(part["features"])
    for key in (modality, "url", "path", "base64"):
        value = part.get(key)
        if value is None:
            continue
        if key == "base64":
            value = decode_base64(value, ARGUMENTS[modality])
        _require_single(modality, value)
        options = {name: part[name] for name in PART_OPTIONS[modality] if part.get(name) is not None}
        if modality != "audio":
            frames = _list_items(value) if modality == "video" else None
            value = value if frames is None else frames
            # A list of images or image files is one video here, and not as many.
            return value if frames is None and not options else WithOptions(value, options)
        return {"array": value, "sampling_rate": options["sampling_rate"]} if "sampling_rate" in options else value
    raise ValueError(
        f"A content part of type {modality!r} must have {modality!r}, 'url', 'path' or 'base64', got {sorted(part)}."
    )


def _require_single(modality: str, value: Any) -> None:
    """Raise a `ValueError` if the input of an image or audio part is a list of files, images or clips."""
    values = None if modality == "video" else _list_items(value)
    files = [
        item
        for item in values or ()
        if isinstance(item, (str, bytes, dict)) or hasattr(item, "mode") or getattr(item, "ndim", 0) > 1
    ]
    if files and modality == "image" or len(files) > 1:
        raise ValueError(
            f"A content part of type {modality!r} must have one {modality}, got a list of {len(files)}: give each a "
            "part of its own."
        )


def _list_items(value: Any) -> list[Any] | None:
    """Return the items of a list, or of an array that stands for one in a table; `None` of anything else."""
    return None if hasattr(value, "shape") and not is_nested(value) else to_list(value)


def change_paths(part: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a part of a message with other paths, those of frames among them; other addresses stay as they are."""
    names = [
        name for name in ("path", "url", part.get("type")) if name in ("path", "url", *MODALITIES) and name in part
    ]
    return part | {name: _change_path(part[name], change) for name in names}


def _change_path(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return value if value.startswith(_NOT_LOCAL) else change(value)
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return value | {"path": _change_path(value["path"], change)}
    items = _list_items(value)
    if items is not None and any(isinstance(item, (str, dict)) for item in items):
        return [_change_path(item, change) for item in items]
    return value
