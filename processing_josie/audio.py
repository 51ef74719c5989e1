"""Audio: reading and writing files, and waveforms of one shape and rate.

Every accepted form becomes a float32 array `(channels, num_samples)` in [-1, 1] before anything else happens to it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from .resampling import require_rate, resample
from .sources import Source, describe_source, is_source, open_source

# What full scale is in integer samples, and where silence lies.
_INTEGER_SCALES = {"int16": (2.0**15, 0), "int32": (2.0**31, 0), "uint8": (2.0**7, 128)}
_MAX_OGG_RATE = 200_000  # Hz; beyond, libsndfile does not report an error but crashes
# libsndfile repairs the length of a cut WAV file in silence and only notes it here. Streams leave a huge length behind.
_WAV_LENGTH_NOTE = re.compile(r"data\s*: (\d+) \(should be (\d+)\)")
_STREAM_LENGTH = 0x7FFF0000

AudioInput = Any  # any of the forms that `as_waveform` takes


def load_audio(source: Source, sampling_rate: int | None = None) -> np.ndarray:
    """Read a sound file as mono.

    Args:
        source (`str`, `Path`, `bytes` or file): A path, `http(s)` URL, `data:` URI, a file's content, an open file.
        sampling_rate (`int`, *optional*): Rate to resample to, in Hz; the file's own when `None`.

    Returns:
        `(num_samples,)`, float32 in [-1, 1].

    Raises:
        `ValueError`: The file cannot be read, is cut short, is empty, or has more than two channels.
    """
    values, rate = _read_file(source)
    values = _require_sound(values).mean(axis=0)
    return values if sampling_rate is None else resample(values, rate, sampling_rate)


@contextmanager
def open_audio(source: Source) -> Iterator[soundfile.SoundFile]:
    """Open a sound file, for [`read_frames`].

    Raises:
        `ValueError`: The file cannot be opened, or reading it fails.
    """
    opened = open_source(source, "audio")
    try:
        with soundfile.SoundFile(opened) as file:
            yield file
    except (soundfile.SoundFileError, TypeError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise ValueError(f"`audio` must be a readable sound file, got {describe_source(source)}: {reason}.") from error


def read_frames(file: soundfile.SoundFile, source: Source, num_frames: int | None = None) -> np.ndarray:
    """Read an open sound file: the whole of it, or `num_frames` from where it stands.

    Returns:
        `(channels, num_samples)`, float32.

    Raises:
        `ValueError`: There is less than the file promises.
    """
    values = file.read(-1 if num_frames is None else num_frames, dtype="float32", always_2d=True).T
    expected = file.frames if num_frames is None else num_frames
    note = _WAV_LENGTH_NOTE.search(file.extra_info)
    cut_wav = note is not None and int(note[2]) < int(note[1]) < _STREAM_LENGTH
    if values.shape[1] < expected or cut_wav:
        raise ValueError(f"`audio` must be a complete sound file, got {describe_source(source)}, which is cut short.")
    return values


def save_audio(path: str | Path, values: np.ndarray | torch.Tensor | Sequence[float], sampling_rate: int) -> None:
    """Write a sound file. It appears under its name only when it is complete.

    Args:
        path (`str` or `Path`): Where to; the suffix chooses the format (`.wav`, `.flac`, `.ogg`, `.mp3`...).
        values (`np.ndarray`, `torch.Tensor` or list): `(num_samples,)` or `(1 or 2 channels, num_samples)`, in [-1, 1];
            what is beyond is clipped.
        sampling_rate (`int`): In Hz.

    Raises:
        `ValueError`: Not a waveform, no such folder or format, or a rate the format does not know.
    """
    path = Path(path)
    channels = _require_sound(_to_channels(values, "values"), "values")
    sampling_rate = require_rate(sampling_rate)
    file_format = path.suffix[1:].upper()
    if file_format not in soundfile.available_formats():
        raise ValueError(f"`path` must end in .wav, .flac, .ogg or another format of soundfile, got {str(path)!r}.")
    if file_format == "OGG" and sampling_rate > _MAX_OGG_RATE:
        raise ValueError(f"`sampling_rate` must be at most {_MAX_OGG_RATE} Hz for OGG, got {sampling_rate}.")
    if not path.parent.is_dir():
        raise ValueError(f"`path` must be in an existing folder, got {str(path)!r}.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        soundfile.write(partial, np.clip(channels, -1.0, 1.0).T, sampling_rate, format=file_format)
        os.replace(partial, path)
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise ValueError(
            f"`path` must be writable as {file_format} at {sampling_rate} Hz, got {str(path)!r}: {reason}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def as_waveform(audio: AudioInput, sampling_rate: int | None, target_rate: int, num_channels: int = 1) -> np.ndarray:
    """Bring one clip of any accepted form to one shape and rate.

    Args:
        audio: A path, URL, `bytes` or open file; an array, tensor or list, `(num_samples,)` or with one or two channels
            on either side, in [-1, 1] or integers of 8, 16 or 32 bits; such values with their rate, as a pair
            `(values, rate)` or a dict `{"array": ..., "sampling_rate": ...}` (or with `path` or `bytes`, as in
            datasets); a decoder of torchcodec.
        sampling_rate (`int`, *optional*): Rate of values that come without one, in Hz.
        target_rate (`int`): Rate of the result, in Hz.
        num_channels (`1` or `2`): Channels of the result: two are averaged to one, one is repeated to two.

    Returns:
        `(num_channels, num_samples)`, float32.

    Raises:
        `ValueError`: No sound, no finite values, too many channels, no rate, or an unreadable file.
    """
    values, rate = _split_rate(audio)
    if is_source(values):
        values, rate = _read_file(values)
    rate = sampling_rate if rate is None else rate
    if rate is None:
        raise ValueError("`sampling_rate` must be given with `audio` that is an array, got None.")
    rate = require_rate(rate)
    channels = _require_sound(_to_channels(values))
    if num_channels == 1:
        channels = channels.mean(axis=0, keepdims=True)
    elif len(channels) == 1:
        channels = channels.repeat(num_channels, axis=0)
    return resample(channels, rate, target_rate)


def is_clip(audio: AudioInput) -> bool:
    """Return whether `audio` is one clip and not a list of clips."""
    if not isinstance(audio, (list, tuple)):
        return True
    if len(audio) == 2 and isinstance(audio[1], (int, np.integer)) and not isinstance(audio[0], (int, float)):
        return True
    return len(audio) > 0 and all(isinstance(value, (int, float, np.number)) for value in audio)


def _split_rate(audio: AudioInput) -> tuple[Any, int | None]:
    """Separate values, or a source, from the rate that comes with them."""
    if isinstance(audio, dict):
        for key in ("array", "bytes", "path"):
            if audio.get(key) is not None:
                return audio[key], audio.get("sampling_rate")
        raise ValueError(f"`audio` as a dict must have 'array', 'bytes' or 'path', got {sorted(audio)}.")
    if (
        isinstance(audio, (list, tuple))
        and len(audio) == 2
        and not isinstance(audio[0], (int, float))
        and is_clip(audio)
    ):
        return audio[0], audio[1]
    if not isinstance(audio, (list, tuple)) and hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        return samples.data, samples.sample_rate
    return audio, None


def _read_file(source: Source) -> tuple[np.ndarray, int]:
    """Return `(channels, num_samples)` and the rate of a sound file."""
    with open_audio(source) as file:
        return read_frames(file, source), file.samplerate


def _to_channels(values: Any, name: str = "audio") -> np.ndarray:
    """Return float32 `(channels, num_samples)` of an array, tensor or list."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    try:
        values = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"`{name}` must be an array of numbers, got rows of different lengths.") from error
    if values.dtype.name in _INTEGER_SCALES:
        scale, silence = _INTEGER_SCALES[values.dtype.name]
        values = (values.astype(np.float64) - silence) / scale
    elif values.dtype.kind != "f":
        raise ValueError(f"`{name}` must be floating point, int16, int32 or uint8, got {values.dtype}.")
    shape = values.shape
    if values.ndim == 1:
        values = values[None]
    elif values.ndim == 2 and shape[0] > 2 and shape[1] in (1, 2):
        values = values.T
    if values.ndim != 2 or not 1 <= len(values) <= 2:
        raise ValueError(f"`{name}` must be of shape (num_samples,) or have 1 or 2 channels, got {shape}.")
    return values.astype(np.float32)


def _require_sound(channels: np.ndarray, name: str = "audio") -> np.ndarray:
    """Return `channels` if there is something in them, and only finite numbers."""
    if channels.ndim != 2 or not 1 <= len(channels) <= 2:
        raise ValueError(f"`{name}` must have 1 or 2 channels, got {len(channels)}.")
    if channels.shape[1] == 0:
        raise ValueError(f"`{name}` must have at least one sample, got 0.")
    if not np.isfinite(channels).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    return channels
