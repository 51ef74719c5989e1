"""Sources of inputs: paths, URLs, data URIs, bytes and open files, each turned into something that can be read."""

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from huggingface_hub import is_offline_mode
from huggingface_hub.utils import httpx  # whichever client the hub library runs on

from .nested_values import from_scalar, join_arrays

_TIMEOUT = 10.0  # seconds

Source = str | os.PathLike | bytes | BinaryIO

_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


def is_source(value: object) -> bool:
    """Return whether `value` names or holds a file, as opposed to decoded values."""
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(value, "read")


def is_words(value: object) -> bool:
    """Return whether `value` is a text or a list of texts that name no file, image or address."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    return bool(texts) and all(isinstance(text, str) and not _names_source(text) for text in texts)


def _names_source(text: str) -> bool:
    if text.startswith(("http://", "https://", "data:", "file:")) or text.lower().endswith(_IMAGE_ENDINGS):
        return True
    return len(text) < 1024 and "\n" not in text and os.path.exists(text)


def unwrap_source(value: Any) -> Any:
    """Return the file of a dict that has one, as the features of datasets and uploads of Gradio do; else `value`, an
    array of arrays as one.

    Args:
        value: A dict with `bytes`, `path` or `url`, of which the first that is not `None` is taken; or anything else. A
            scalar of pyarrow is what it holds.
    """
    value = from_scalar(value)
    if isinstance(value, dict):
        for key in ("bytes", "path", "url"):
            if value.get(key) is not None:
                return value[key]
    return join_arrays(value)


class WithOptions:
    """An input with options of its own, as a part of a message may have them.

    Args:
        value: The input.
        options (`dict`): By the names of its processor.
    """

    def __init__(self, value: Any, options: dict[str, Any]):
        self.value = value
        self.options = options

    def __deepcopy__(self, memo: dict) -> "WithOptions":
        return self  # open files cannot be copied


def split_options(item: Any) -> tuple[Any, dict[str, Any]]:
    """Return an input, and the options that it has of its own."""
    return (item.value, item.options) if isinstance(item, WithOptions) else (item, {})


def describe_source(source: Source) -> str:
    """Return a short name of `source` for messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if not isinstance(source, (str, os.PathLike)):
        name = getattr(source, "name", None)  # a number where a pipe has no name
        source = name if isinstance(name, str) else type(source).__name__
    text = str(source)
    return repr(text if len(text) <= 200 else text[:200] + "...")


def open_source(source: Source, name: str) -> Path | BinaryIO:
    """Return a path that exists, or an open binary file that can seek and is at its start.

    A file of the caller's is read from its start, wherever it was, and left open; a pipe is read into memory.

    Args:
        source (`str`, `Path`, `bytes` or file): A path, a `file://`, `http://` or `https://` URL, a `data:` URI, the
            content, or an open file.
        name (`str`): Argument that the caller knows it by, for messages.

    Raises:
        `ValueError`: There is no such file, the URL cannot be fetched, it is empty, or not open for reading bytes.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return io.BytesIO(_fetch(source, name))
    if isinstance(source, str) and source.startswith("data:"):
        return io.BytesIO(_read_data_uri(source, name))
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ValueError(f"`{name}` must not be empty, got 0 bytes.")
        return io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        path = _local_path(source, name)
        if not path.is_file():
            raise ValueError(f"`{name}` must be an existing file, got {describe_source(source)}.")
        if path.stat().st_size == 0:
            raise ValueError(f"`{name}` must not be empty, got {describe_source(source)} of 0 bytes.")
        return path
    return _rewind(source, name)


def decode_base64(text: str, name: str) -> bytes:
    """Return the content of a base64 string or `data:` URI.

    Raises:
        `ValueError`: It is no base64.
    """
    if not isinstance(text, str):
        raise ValueError(f"`{name}` must be base64 in a string, or a `data:` URI, got a {type(text).__name__}.")
    try:
        content = text.partition(",")[2] if text.startswith("data:") else text
        return base64.b64decode("".join(content.split()), validate=True)  # lines, as of MIME, are joined
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"`{name}` must be valid base64, got {describe_source(text)}: {error}.") from error


def _read_data_uri(uri: str, name: str) -> bytes:
    head, comma, content = uri.partition(",")
    if not comma:
        raise ValueError(f"`{name}` must have a comma before the data of its `data:` URI, got {describe_source(uri)}.")
    return decode_base64(unquote(content), name) if head.endswith(";base64") else unquote_to_bytes(content)


def _local_path(source: str | os.PathLike, name: str) -> Path:
    if not isinstance(source, str) or not source.startswith("file:"):
        return Path(source)
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"`{name}` must be a file of this machine (file:///...), got {describe_source(source)}.")
    return Path(url2pathname(parts.path))


def _rewind(file: Any, name: str) -> BinaryIO:
    label = describe_source(file)
    if getattr(file, "closed", False):
        raise ValueError(f"`{name}` must be an open file, got {label}, which is closed.")
    try:
        if not (hasattr(file, "seekable") and file.seekable()):
            file = io.BytesIO(file.read())
        is_empty = file.seek(0, io.SEEK_END) == 0
        file.seek(0)
        is_binary = isinstance(file.read(0), bytes)
    except (OSError, TypeError) as error:
        raise ValueError(f"`{name}` must be a file open for reading bytes, got {label}: {error}.") from error
    if not is_binary:
        raise ValueError(f"`{name}` must be a file open for reading bytes, got {label}, which is open for text.")
    if is_empty:
        raise ValueError(f"`{name}` must not be empty, got {label} of 0 bytes.")
    return file


def _fetch(url: str, name: str) -> bytes:
    if is_offline_mode():
        raise ValueError(f"`{name}` must be a local file in offline mode (HF_HUB_OFFLINE), got {url!r}.")
    try:
        response = httpx.get(url, follow_redirects=True, timeout=_TIMEOUT)
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ValueError(f"`{name}` must be a URL that can be fetched, got {url!r}: {error}.") from error
    return response.content
