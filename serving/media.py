"""Clips and images of clients: decoded from bytes that the client sent, and from nothing else.

No path or address of a client is opened. Sizes are read from the head of a file before anything is decoded, so that a
small file that becomes a large one is refused.
"""

import base64
import binascii
import io
import re

import numpy as np
import soundfile
from PIL import Image

from ..processing_josie.audio_files import open_audio
from ..processing_josie.images import IMAGE_ERRORS, open_image
from .errors import ClientError
from .limits import Limits

PCM_RATE = 24000  # Hz, of the realtime protocol
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,20};base64,", re.IGNORECASE)
_FORMS = {"WAVEX": "wav", "RF64": "wav"}  # of libsndfile's names those that clients do not use
_RATES = (4000, 192_000)  # Hz
_SAMPLES_A_SECOND = 2 * 48000  # of all channels, as much as a clip may have


def decode_base64(text: str, name: str) -> bytes:
    """Return the bytes of a base64 string.

    Raises:
        [`ClientError`]: It is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ClientError(f"`{name}` must be base64, got something else.", name, "invalid_value") from error


def decode_pcm(content: bytes, name: str) -> np.ndarray:
    """Return `(num_samples,)`, int16, of little-endian bytes.

    Raises:
        [`ClientError`]: A sample is cut.
    """
    if len(content) % 2:
        raise ClientError(
            f"`{name}` must be whole samples of 16 bits, got {len(content)} bytes.", name, "invalid_value"
        )
    return np.frombuffer(content, dtype="<i2")


def to_float(samples: np.ndarray) -> np.ndarray:
    """Return int16 samples as float32 in [-1, 1)."""
    return samples.astype(np.float32) / 32768


def encode_pcm(samples: np.ndarray) -> bytes:
    """Return float samples as little-endian int16, the inverse of [`to_float`]; what is beyond is clipped."""
    return (samples * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()


def decode_clip(content: bytes, name: str, limits: Limits) -> tuple[np.ndarray, int]:
    """Decode an audio file, its channels mixed into one.

    Args:
        content (`bytes`): WAV, FLAC, Ogg or MP3.
        name (`str`): The field that it stood in.
        limits ([`Limits`]): Of its length.

    Returns:
        Float32 `(num_samples,)` and the sampling rate.

    Raises:
        [`ClientError`]: It is none of these, is damaged, empty or too long.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, num_samples, num_channels = file.samplerate, file.frames, file.channels
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise ClientError(f"`{name}` must be a WAV, FLAC, Ogg or MP3 file.", name, "invalid_audio") from error
    if not _RATES[0] <= rate <= _RATES[1]:
        raise ClientError(
            f"`{name}` must have a sampling rate in [{_RATES[0]}, {_RATES[1]}] Hz, got {rate}.", name, "invalid_audio"
        )
    seconds = limits.max_audio_seconds
    if not 0 < num_samples <= seconds * rate or num_samples * num_channels > seconds * _SAMPLES_A_SECOND:
        raise ClientError(f"`{name}` must have some samples and at most {seconds:g} s.", name, "invalid_audio")
    try:
        with open_audio(content) as audio:
            if audio.num_samples > seconds * rate:
                raise ClientError(f"`{name}` must have at most {seconds:g} s.", name, "invalid_audio")
            values = audio.read().mean(axis=0)
    except ClientError:
        raise
    except ValueError as error:
        raise ClientError(f"`{name}` must be a whole audio file, got a damaged one.", name, "invalid_audio") from error
    if not np.isfinite(values).all():
        raise ClientError(f"`{name}` must have finite samples.", name, "invalid_audio")
    return values, rate


def find_form(content: bytes) -> str:
    """Return what an audio file is, such as `"wav"`, whatever is in it.

    Args:
        content (`bytes`): A file that [`decode_clip`] reads.
    """
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        name = str(file.format)
    return _FORMS.get(name, name.lower())


def decode_image(url: str, name: str, limits: Limits) -> Image.Image:
    """Decode an image in a `data:` URL.

    Its mode stays as it is: the processor lays opacity over white and scales 16 bits, as it does with a file.

    Args:
        url (`str`): `data:image/png;base64,...`.
        name (`str`): The field that it stood in.
        limits ([`Limits`]): Of its pixels.

    Raises:
        [`ClientError`]: It is another address, no image, or a too large one.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise ClientError(
            f"`{name}` must be a URL that holds the image (data:image/png;base64,...), as this server opens no "
            f"addresses, got {url[:30]!r}.",
            name,
            "invalid_image_url",
        )
    content = decode_base64(url[head.end() :], name)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            num_pixels = image.width * image.height
        if num_pixels > limits.max_image_pixels:
            raise ClientError(
                f"`{name}` must have at most {limits.max_image_pixels} pixels, got {num_pixels}.", name, "invalid_image"
            )
        return open_image(content, name)
    except ClientError:
        raise
    except (*IMAGE_ERRORS, ValueError, Image.DecompressionBombWarning) as error:
        raise ClientError(f"`{name}` must be a {', '.join(_FORMATS)} image.", name, "invalid_image") from error
