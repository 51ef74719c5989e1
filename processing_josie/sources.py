"""Where inputs come from: paths, URLs, data URIs, bytes and open files, all turned into something that can be read."""

import base64
import binascii
import io
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import is_offline_mode
from huggingface_hub.utils import httpx  # whichever client the hub library runs on

_TIMEOUT = 10.0  # seconds

Source = str | Path | bytes | BinaryIO


def is_source(value: object) -> bool:
    """Return whether `value` names or holds a file, as opposed to decoded values."""
    return isinstance(value, (str, Path, bytes)) or hasattr(value, "read")


def describe_source(source: Source) -> str:
    """Return a short name of `source` for messages."""
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    text = str(source if isinstance(source, (str, Path)) else getattr(source, "name", type(source).__name__))
    return repr(text if len(text) <= 200 else text[:200] + "...")


def open_source(source: Source, name: str) -> Path | BinaryIO:
    """Return a path that exists, or an open binary file.

    Args:
        source (`str`, `Path`, `bytes` or file): A path, an `http(s)` URL, a `data:` URI, the content, or an open file.
        name (`str`): Argument that the caller knows it by, for messages.

    Raises:
        `ValueError`: There is no such file, the URL cannot be fetched, or it is empty.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return io.BytesIO(_fetch(source, name))
    if isinstance(source, str) and source.startswith("data:"):
        return io.BytesIO(decode_base64(source, name))
    if isinstance(source, bytes):
        if not source:
            raise ValueError(f"`{name}` must not be empty, got 0 bytes.")
        return io.BytesIO(source)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"`{name}` must be an existing file, got {describe_source(source)}.")
        return path
    return source


def decode_base64(text: str, name: str) -> bytes:
    """Return the content of a base64 string or `data:` URI.

    Raises:
        `ValueError`: It is no base64.
    """
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError(f"`{name}` must be valid base64, got {describe_source(text)}: {error}.") from error


def _fetch(url: str, name: str) -> bytes:
    if is_offline_mode():
        raise ValueError(f"`{name}` must be a local file in offline mode (HF_HUB_OFFLINE), got {url!r}.")
    try:
        response = httpx.get(url, follow_redirects=True, timeout=_TIMEOUT)
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ValueError(f"`{name}` must be a URL that can be fetched, got {url!r}: {error}.") from error
    return response.content
