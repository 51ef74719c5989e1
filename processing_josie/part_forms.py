"""Parts of messages as other libraries write them, each turned into the form that JOSIE reads, or refused.

Taken are parts of transformers and of Qwen (`{"image": ...}` without a type among them), of OpenAI's two interfaces and
of servers that follow them (`image_url`, `input_image`, `input_audio`, `audio_url`, `video_url`, `input_text`,
`output_text`, `refusal`, `file`), and files of Gradio. An input that a part has is never left out in silence.
"""

import re
from pathlib import PurePath, PurePosixPath
from types import NoneType
from typing import Any
from urllib.parse import urlsplit

from ..configuration_josie.unicode_text import require_unicode
from .messages import MODALITIES, PART_OPTIONS
from .nested_values import is_empty, to_dict

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_LINKS = {"image_url": "image", "input_image": "image", "audio_url": "audio", "video_url": "video"}
_FILES = ("file", "input_file")
_OF_COMPONENTS = ("type", "component", "value", "constructor_args", "props", "instance")
_PLACES = ("path", "url", "file_data", "file_url")
# What Gradio and OpenAI say of a file beside where it is.
_OF_FILES = ("type", "mime_type", "filename", "orig_name", "size", "meta", "is_stream", "alt_text")
_OTHER_NAMES = {
    ("video", "nframes"): "num_frames",
    ("audio", "sample_rate"): "sampling_rate",
    **{(modality, f"{modality}_url"): "url" for modality in MODALITIES},
}
_RATES_OF_FRAMES = ("sample_fps", "raw_fps")  # Qwen's names for how fast frames that are given follow each other
_SUFFIXES = {
    "image": "avif bmp gif heic heif jfif jp2 jpeg jpg png ppm tif tiff webp",
    "audio": "aac ac3 aif aifc aiff amr au caf flac g722 m4a m4b mka mp2 mp3 oga ogg opus tta voc w64 wav weba wma wv",
    "video": "3gp avi flv m4v mkv mov mp4 mpeg mpg ogv ts webm wmv",
}
AUDIO_SUFFIXES = tuple(f".{suffix}" for suffix in _SUFFIXES["audio"].split())
_MODALITY_OF = {suffix: modality for modality, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}


def read_part(part: Any) -> Any:
    """Return a part of a message's content as a string, or as a dict of type `text`, `image`, `video` or `audio`.

    Raises:
        `ValueError`: It has another form, two inputs, or something that would be left out.
    """
    if isinstance(part, str):
        require_unicode("content", part)
        return part
    values = to_dict(part)
    if values is None:
        raise ValueError(
            "A content part must be a text or a dict with `type`, such as {'type': 'image', 'image': ...}, got a "
            f"{type(part).__name__}."
        )
    # Rows of a table have the columns of all parts, and fill some.
    values = {
        name: value for name, value in values.items() if not (is_empty(value) and isinstance(value, (dict, NoneType)))
    }
    kind = values.get("type")
    if kind is None:
        kinds = [name for name in ("text", *MODALITIES, "component") if name in values]
        kind = kinds[0] if len(kinds) == 1 else None
    if not isinstance(kind, str):
        raise ValueError(f"The `type` of a content part must be 'text', 'image', 'video' or 'audio', got {kind}.")
    if kind in _TEXTS:
        return _read_text(values, _TEXTS[kind])
    if kind in MODALITIES:
        return _read_media(values | {"type": kind}, kind)
    if kind in _LINKS:
        return _read_link(values, _LINKS[kind])
    if kind == "input_audio":
        return _read_input_audio(values)
    if kind in _FILES:
        return read_file(_payload(values, kind) if kind in values else values)
    if kind == "component":
        return _read_component(values)
    raise ValueError(f"The `type` of a content part must be 'text', 'image', 'video' or 'audio', got {kind}.")


def _read_text(values: dict[str, Any], name: str) -> dict[str, Any]:
    text = values.get(name)
    if not isinstance(text, str):
        raise ValueError(
            f"A content part of type {values.get('type', name)!r} must have a text as {name!r}, got {text!r}."
        )
    _refuse_others(values, (name,), "text", ("annotations", "logprobs"))
    require_unicode(name, text)
    return {"type": "text", "text": text}


def _read_media(values: dict[str, Any], modality: str) -> dict[str, Any]:
    part = {_OTHER_NAMES.get((modality, name), name): value for name, value in values.items()}
    if len(part) < len(values):
        raise ValueError(f"A content part of type {modality!r} must say everything once, got {sorted(values)}.")
    rates = {part.pop(name) for name in _RATES_OF_FRAMES if modality == "video" and name in part}
    if rates:
        if len(rates) > 1 or "video_metadata" in part:
            raise ValueError(f"A video must have one of {[*_RATES_OF_FRAMES, 'video_metadata']}, got {sorted(values)}.")
        part["video_metadata"] = {"fps": rates.pop()}
    if part.get("detail") == "auto":
        del part["detail"]
    sources = [name for name in (modality, "url", "path", "base64") if name in part]
    if len(sources) > 1:
        raise ValueError(f"A content part of type {modality!r} must have one input, got {sources}.")
    if not sources and modality == "audio":
        sources = [name for name in ("codes", "features") if name in part]
    _refuse_others(part, (*sources, *PART_OPTIONS[modality]), modality)
    return part


def _refuse_others(
    values: dict[str, Any], known: tuple[str, ...], modality: str, ignored: tuple[str, ...] = ()
) -> None:
    for name, value in values.items():
        if name not in (*known, "type") and not is_empty(value) and name not in ignored:
            options = [*PART_OPTIONS.get(modality, ())]
            also = f", and perhaps {options}" if options else ""
            raise ValueError(
                f"A content part of type {modality!r} must have {'its text' if modality == 'text' else 'one input'}"
                f"{also}, got {name!r}, which would be left out."
            )


def _payload(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the dict that a part has under its type, with what else the part says."""
    inner = to_dict(values[name])
    if inner is None:
        raise ValueError(f"A content part of type {name!r} must have a dict as {name!r}, got {values[name]!r}.")
    return {key: value for key, value in values.items() if key not in (name, "type")} | inner


def _read_link(values: dict[str, Any], modality: str) -> dict[str, Any]:
    """Return a part of OpenAI's that names a file: `{"image_url": {"url": ...}}` or `{"image_url": "..."}`."""
    name = f"{modality}_url"
    if name not in values:
        raise ValueError(f"A content part of type {values['type']!r} must have {name!r}, got {sorted(values)}.")
    link = values[name]
    part = {"url": link} if isinstance(link, str) else _payload(values, name)
    rest = {key: value for key, value in values.items() if key not in (name, "type")}
    return _read_media(rest | part | {"type": modality}, modality)


def _read_input_audio(values: dict[str, Any]) -> dict[str, Any]:
    part = _payload(values, "input_audio") if "input_audio" in values else {}
    if not isinstance(part.get("data"), str):
        raise ValueError(
            "A content part of type 'input_audio' must have {'data': base64, 'format': ...} as 'input_audio', "
            f"got {sorted(part) or sorted(values)}."
        )
    rest = {key: value for key, value in part.items() if key not in ("data", "format")}  # the file says its format
    return _read_media(rest | {"type": "audio", "base64": part["data"]}, "audio")


def _read_component(values: dict[str, Any]) -> dict[str, Any]:
    """Return the part of what Gradio shows in a chat: `{"component": "audio", "value": {"path": ...}, ...}`."""
    modality, file = values.get("component"), to_dict(values.get("value"))
    if modality not in MODALITIES or file is None:
        raise ValueError(
            "A component of a message must be 'image', 'video' or 'audio' and have a file as 'value', got "
            f"{modality!r} with {values.get('value')!r:.200}."
        )
    rest = {name: value for name, value in values.items() if name not in _OF_COMPONENTS}
    return read_file(rest | file | {"mime_type": f"{modality}/*"})  # a suffix may be of several: WebM from a microphone


def read_file(file: Any) -> dict[str, Any]:
    """Return the part of a file of Gradio or OpenAI: its path, or a dict with `path`, `url` or `file_data`.

    Its modality is that of `mime_type`, or of the name's suffix. Options of a part stand beside them; a `url` beside a
    `path` is Gradio's for the same file.

    Raises:
        `ValueError`: There is no file, or no telling of what modality it is, or something that would be left out.
    """
    values = {"path": file} if isinstance(file, (str, PurePath)) else to_dict(file)
    if values is None or is_empty(values):
        raise ValueError(f"A file of a message must be a dict with 'path' or 'url', got {file!r}.")
    values = {name: value for name, value in values.items() if value is not None}
    places = [name for name in _PLACES if name in values]
    place: Any = values[places[0]] if places else None
    place = str(place) if isinstance(place, PurePath) else place
    if not isinstance(place, str):
        raise ValueError(f"A file of a message must have 'path', 'url' or 'file_data', got {sorted(values)}.")
    if places[1:] not in ([], ["url"]):
        raise ValueError(f"A file of a message must have one input, got {places}.")
    named = [values.get("mime_type"), _type_of_uri(place), values.get("filename"), values.get("orig_name"), place]
    modality = next(filter(None, map(modality_of, named)), None)
    if modality is None:
        raise ValueError(
            "A file of a message must be an image, video or audio by its type or suffix, got "
            f"{place[:200]!r}: say it by {{'type': 'image', 'path': ...}}."
        )
    name = {"path": "path", "file_data": "base64"}.get(places[0], "url")
    rest = {key: value for key, value in values.items() if key not in (*_PLACES, *_OF_FILES)}
    return _read_media(rest | {"type": modality, name: place}, modality)


def _type_of_uri(text: str) -> str | None:
    found = re.match(r"data:([a-z]+/[^;,]+)", text)
    return found[1] if found else None


def modality_of(name: str | None) -> str | None:
    """Return the modality of a media type (`image/png`), or of a file's name by its suffix; `None` if neither says."""
    if not name:
        return None
    kind = name.partition("/")[0]
    if kind in MODALITIES and name.count("/") == 1 and not PurePosixPath(name).suffix:
        return kind
    path = urlsplit(name).path if "://" in name else name
    return _MODALITY_OF.get(PurePosixPath(path.replace("\\", "/")).suffix[1:].lower())
