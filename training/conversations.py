"""Rows of conversations: read from JSONL files, and held in data sets.

A row has `messages`, each with a `role` and a `content`: a text, or parts such as `{"type": "text", "text": "..."}` and
`{"type": "audio", "path": "question.wav"}`. Paths are relative to the file that names them. The files themselves are
not read here; what is in memory is kept inside the messages, as a `data:` URI.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Dataset, Features, Json, concatenate_datasets
from PIL import Image, ImageOps

from ..processing_josie.audio import as_waveform, split_rate
from ..processing_josie.message_forms import row_messages
from ..processing_josie.messages import MODALITIES, change_paths

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of Pillow, which PNG keeps as they are


def read_jsonl(path: str | Path, columns: tuple[str, ...] | list[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file, their paths relative to where the program runs.

    Raises:
        `ValueError`: No such file, or a line that is no conversation, or not in UTF-8.
    """
    for number, row in read_json_lines(path):
        try:
            yield normalize_row(row, Path(path).parent, columns)
        except ValueError as error:
            raise ValueError(f"Line {number} of {str(path)!r}: {error}") from error


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line of a JSONL file that is not empty.

    Raises:
        `ValueError`: No such file, or a line that is not JSON in UTF-8; it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` of a source must be an existing file, got {str(path)!r}.")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"Line {number} of {str(path)!r} must be in UTF-8, got bytes that are not: {error}."
                ) from error
            except json.JSONDecodeError as error:
                raise ValueError(f"Line {number} of {str(path)!r} must be JSON: {error}.") from error


def normalize_row(row: Any, root: Path | None, columns: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Return `messages` in JOSIE's form and the other columns to keep, with paths under `root`.

    Args:
        row (`dict`): With `messages`, or in another form of conversations, see [`row_messages`].
        root (`Path`, *optional*): Folder of relative paths; they stay as they are when `None`.
        columns (`tuple[str, ...]`): Names of the other columns; `None` where the row has none of that name, and of
            `system`, which is in the messages.

    Raises:
        `ValueError`: As of [`row_messages`] and [`pack_messages`].
    """
    if not isinstance(row, dict):
        raise ValueError(f"A row must have `messages`, a list of dicts, got {row!r}.")
    messages = pack_messages(row_messages(row))
    if root is not None:
        messages = move_messages(messages, root)
    return {"messages": messages, **{name: None if name == "system" else row.get(name) for name in columns}}


def move_messages(messages: list[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Return messages whose relative paths are under `root`."""
    return [_change_parts(message, partial(move_part, root=root)) for message in messages]


def move_part(part: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return a part of a message whose relative paths are under `root`."""
    return change_paths(part, lambda path: str(root / path))


def _change_parts(message: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(message.get("content"), list):
        return message
    return message | {"content": [change(part) if isinstance(part, dict) else part for part in message["content"]]}


def pack_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages that JSON can hold: files and values in memory as `data:` URIs, from which the same is read.

    Args:
        messages (`list[dict]`): In JOSIE's form; not changed.

    Raises:
        `ValueError`: An array that is no image of 8 bits, or something else that no file can hold.
    """
    return [_change_parts(message, _pack_part) for message in messages]


def _pack_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = str(part.get("type"))
    packed = {name: part[name].tolist() for name in ("codes", "features") if hasattr(part.get(name), "tolist")}
    for name in (kind, "path", "url"):
        if kind in MODALITIES and part.get(name) is not None:
            packed[name] = _pack(part[name], kind, part.get("sampling_rate"))
    return part | packed


def _pack(value: Any, modality: str, rate: int | None) -> Any:
    value = getattr(value, "_hf_encoded", value)  # a decoder of `datasets` has its file
    if isinstance(value, dict) and value.get("bytes") is not None:
        value = value["bytes"]
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _to_uri(bytes(value))
    if modality == "audio":
        samples, own = split_rate(value)
        return _to_uri(_write_audio(samples, own or rate)) if hasattr(samples, "dtype") else value
    if modality == "video" and (isinstance(value, (list, tuple)) or hasattr(value, "dtype")):
        return [_pack(frame, "image", None) for frame in value]
    if value is None or isinstance(value, (str, list, dict)):
        return value
    array = np.asarray(value) if hasattr(value, "dtype") else None
    if array is not None and array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] in ((3,), (4,))):
        value = Image.fromarray(array)
    if not isinstance(value, Image.Image):
        found = f"a {type(value).__name__}" if array is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(
            f"A content part of type {modality!r} in a data set must be a file, its bytes, a PIL image, or an array of "
            f"uint8 of shape (height, width) with perhaps 3 or 4 channels, got {found}."
        )
    return _to_uri(_write_image(value))


def _to_uri(content: bytes) -> str:
    return f"data:;base64,{base64.b64encode(content).decode()}"


def _write_audio(samples: Any, rate: int | None) -> bytes:
    """Return a WAV file of exactly these samples, of one or two channels."""
    channels = as_waveform(samples, rate, rate or 1, num_channels=2)
    channels = channels[:1] if np.array_equal(*channels) else channels
    file = io.BytesIO()
    soundfile.write(file, channels.T, int(rate or 1), format="WAV", subtype="FLOAT")
    return file.getvalue()


def _write_image(image: Image.Image) -> bytes:
    """Return a PNG or TIFF file of exactly these pixels, upright."""
    file = io.BytesIO()
    image = ImageOps.exif_transpose(image)
    if image.mode in _PNG_MODES:
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "TIFF")
    return file.getvalue()


def to_dataset(rows: list[dict[str, Any]], columns: tuple[str, ...] = ()) -> Dataset:
    """Return rows as a data set in which messages keep the form they have.

    Args:
        rows (`list[dict]`): All with the same keys.
        columns (`tuple[str]`): Beside `messages`, where there are no rows to tell.
    """
    rows = [{name: pack_messages(cell) if name == "messages" else cell for name, cell in row.items()} for row in rows]
    names = tuple(rows[0]) if rows else ("messages", *columns)
    parts = [
        Dataset.from_dict(
            {name: [row[name] for row in rows]}, features=Features(messages=Json()) if name == "messages" else None
        )
        for name in names
    ]
    return concatenate_datasets(parts, axis=1)
