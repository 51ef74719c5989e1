"""Audio of every accepted form as waveforms of one shape and rate, and writing files.

Everything becomes a float32 array `(channels, num_samples)` in [-1, 1] before anything else happens to it.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers.utils import logging

from ..configuration_josie.whole_files import write_whole
from .audio_files import open_audio
from .nested_values import from_scalar, join_arrays, require_dense
from .resampling import require_rate, resample
from .sources import Source, describe_source, is_source, unwrap_source

logger = logging.get_logger(__name__)

# Full scale of integer samples, and where silence lies.
_INTEGER_SCALES = {"int16": (2.0**15, 0), "int32": (2.0**31, 0), "uint8": (2.0**7, 128)}
# Decoders and resampling overshoot full scale by less than this factor; integers that became floats exceed it.
_HEADROOM = 2.0
# Formats that libsndfile writes, but not so that what was written is heard again.
UNFIT_FORMATS = {
    "RAW": "no header, and so no rate",
    "SD2": "the rate is in a second file, ._NAME, without which it cannot be read",
    "HTK": "the rate is rounded: 24000 Hz become 24038 Hz",
    "SDS": "the rate is rounded, and samples are added: 44100 Hz become 44101 Hz",
    "WVE": "always 8000 Hz",
    "XI": "no rate, read as 44100 Hz",
}
_MAX_RATES = {
    "OGG": 200_000,  # Hz; beyond, libsndfile does not report an error but crashes
    **dict.fromkeys(("SVX", "MPC2K"), 2**16 - 1),  # beyond, it writes the lower 16 bits
}
_USUAL_FORMATS = ("WAV", "FLAC", "OGG", "MP3")

AudioInput = Any  # any of the forms that `as_waveform` takes


def load_audio(source: Source, sampling_rate: int | None = None) -> np.ndarray:
    """Read an audio file as mono.

    Args:
        source (`str`, `Path`, `bytes` or file): A path, a `file://` or `http(s)://` URL, a `data:` URI, a file's
            content, an open file.
        sampling_rate (`int`, *optional*): Rate to resample to, in Hz; the file's own when `None`.

    Returns:
        `(num_samples,)`, float32 in [-1, 1].

    Raises:
        `ValueError`: The file cannot be read, is cut short, is empty, or has more than two channels.
    """
    values, rate = _read_file(source)
    values = check_waveform(values, where=f" in {describe_source(source)}").mean(axis=0)
    return values if sampling_rate is None else resample(values, rate, sampling_rate)


def save_audio(path: str | Path, values: np.ndarray | torch.Tensor | Sequence[float], sampling_rate: int) -> None:
    """Write an audio file. It appears under its name only when it is complete; a pipe or a device is written into.

    Args:
        path (`str` or `Path`): Where to; the suffix chooses the format (`.wav`, `.flac`, `.ogg`, `.mp3`...).
        values (`np.ndarray`, `torch.Tensor` or list): `(num_samples,)` or `(1 or 2 channels, num_samples)`, in [-1, 1];
            what is beyond is clipped.
        sampling_rate (`int`): In Hz.

    Raises:
        `ValueError`: Not a waveform, no such folder or format, or a rate the format does not know.
    """
    path = Path(path)
    channels = check_waveform(_to_channels(values, "values"), "values")
    sampling_rate = require_rate(sampling_rate)
    file_format = check_audio_file(path, sampling_rate)
    encoded = io.BytesIO()  # the system says why a disk takes no more; soundfile does not
    try:
        soundfile.write(encoded, np.clip(channels, -1.0, 1.0).T, sampling_rate, format=file_format)
        write_whole(path, encoded.getbuffer())
    except (soundfile.SoundFileError, OSError) as error:
        raise unwritable(path, file_format, sampling_rate, error) from error


def audio_formats() -> list[str]:
    """Return the formats of audio files that can be written and read again at their rate, the usual ones first."""
    known = [name for name in soundfile.available_formats() if name not in UNFIT_FORMATS]
    return [name for name in dict.fromkeys((*_USUAL_FORMATS, *known)) if name in known]


def unwritable(path: Path, file_format: str, sampling_rate: int, error: Exception) -> ValueError:
    """Return the error of an audio file that cannot be opened, written or ended.

    Args:
        path (`Path`), file_format (`str`), sampling_rate (`int`): Of the file.
        error (`Exception`): What soundfile or the file system raised.
    """
    reason = str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).rstrip(".")
    return ValueError(f"`path` must be writable as {file_format} at {sampling_rate} Hz, got {str(path)!r}: {reason}.")


def check_audio_file(path: Path, sampling_rate: int) -> str:
    """Return the format of an audio file to write, by its suffix.

    Raises:
        `ValueError`: There is no such folder or format, or the format does not know the rate.
    """
    file_format = path.suffix[1:].upper()
    formats = audio_formats()
    if file_format not in formats:
        endings = ", ".join(f".{name.lower()}" for name in formats)
        raise ValueError(f"`path` must end in {endings}, got {str(path)!r}.")
    if require_rate(sampling_rate) > _MAX_RATES.get(file_format, sampling_rate):
        raise ValueError(
            f"`sampling_rate` must be at most {_MAX_RATES[file_format]} Hz for {file_format}, got {sampling_rate}."
        )
    if not path.parent.is_dir():
        raise ValueError(f"`path` must be in an existing folder, got {str(path)!r}.")
    return file_format


def as_waveform(audio: AudioInput, sampling_rate: int | None, target_rate: int, num_channels: int = 1) -> np.ndarray:
    """Bring one clip of any accepted form to one shape and rate.

    Args:
        audio: A path, URL, `bytes` or open file; an array, tensor or list, `(num_samples,)` or with one or two channels
            on either side, in [-1, 1] or integers of 8, 16 or 32 bits; such values with their rate, as a pair in either
            order or a dict `{"array": ..., "sampling_rate": ...}`; a dict with `bytes` or `path`, as in datasets; a
            scalar of pyarrow with any of these; a decoder of torchcodec, or its samples.
        sampling_rate (`int`, *optional*): Rate of values that come without one, in Hz.
        target_rate (`int`): Rate of the result, in Hz.
        num_channels (`1` or `2`): Channels of the result: two are averaged to one, one is repeated to two.

    Returns:
        `(num_channels, num_samples)`, float32.

    Raises:
        `ValueError`: No samples, values that are not finite or out of range, too many channels, no rate, or an
            unreadable file.
    """
    values, rate = split_rate(audio)
    where = ""
    if is_source(values):
        where = f" in {describe_source(values)}"
        values, rate = _read_file(values)
    elif isinstance(values, int | float | np.number):
        raise ValueError(f"`audio` must be a file or an array of samples, got {values!r}.")
    rate = sampling_rate if rate is None else rate
    if rate is None:
        raise ValueError("`sampling_rate` must be given with `audio` that is an array, got None.")
    rate = require_rate(rate)
    channels = check_waveform(_to_channels(values), where=where)
    if num_channels == 1:
        channels = channels.mean(axis=0, keepdims=True)
    elif len(channels) == 1:
        channels = channels.repeat(num_channels, axis=0)
    return resample(channels, rate, target_rate)


def is_clip(audio: AudioInput) -> bool:
    """Return whether `audio` is one clip and not a list of clips."""
    if not isinstance(audio, (list, tuple)):
        return True
    return _rate_index(audio) is not None or (
        len(audio) > 0 and all(isinstance(value, (int, float, np.number)) for value in audio)
    )


def split_rate(audio: AudioInput) -> tuple[Any, int | None]:
    """Separate the values of a clip, or its file, from the rate that comes with them.

    Raises:
        `ValueError`: A dict without either.
    """
    audio = from_scalar(audio)
    if isinstance(audio, dict):
        values = audio.get("array")
        values = unwrap_source(audio) if values is None else values
        if isinstance(values, dict):
            raise ValueError(f"`audio` as a dict must have 'array', 'bytes', 'path' or 'url', got {sorted(audio)}.")
        return values, audio.get("sampling_rate")
    if isinstance(audio, (list, tuple)):
        index = _rate_index(audio)
        return (audio, None) if index is None else (audio[1 - index], audio[index])
    if hasattr(audio, "get_all_samples"):
        audio = audio.get_all_samples()
    if hasattr(audio, "sample_rate") and hasattr(audio, "data"):
        return audio.data, audio.sample_rate
    return audio, None


def _rate_index(audio: list | tuple) -> int | None:
    """Return which item of a pair of values and rate, in either order, is the rate; `None` of anything else."""
    if len(audio) != 2:
        return None
    are_rates = [isinstance(item, (int, np.integer)) for item in audio]
    are_values = [not isinstance(item, (int, float, np.number)) for item in audio]
    for index in (1, 0):
        if are_rates[index] and are_values[1 - index]:
            return index
    return None


def check_waveform(channels: np.ndarray, name: str = "audio", where: str = "") -> np.ndarray:
    """Return `channels`, `(1 or 2, num_samples)`, if there are samples, and they are finite and in range.

    Args:
        channels (`np.ndarray`): Floating point.
        name (`str`): Argument that the caller knows it by, for messages. What is to be saved may be beyond the range.
        where (`str`): End of a message, such as `" in 'a.wav'"`.

    Raises:
        `ValueError`: They are not.
    """
    if channels.ndim != 2 or not 1 <= len(channels) <= 2:
        raise ValueError(f"`{name}` must have 1 or 2 channels, got {len(channels)}{where}.")
    if channels.shape[1] == 0:
        raise ValueError(f"`{name}` must have at least one sample, got 0{where}.")
    low, high = float(channels.min()), float(channels.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity{where}.")
    if name == "audio" and max(high, -low) > _HEADROOM:
        raise ValueError(f"`{name}` of floating point must be in [-1, 1], got values from {low:g} to {high:g}{where}.")
    return channels


def _read_file(source: Source) -> tuple[np.ndarray, int]:
    """Return `(channels, num_samples)` and the rate of an audio file."""
    with open_audio(source) as file:
        return file.read(), file.sampling_rate


def _to_channels(values: Any, name: str = "audio") -> np.ndarray:
    """Return float32 `(channels, num_samples)` of an array, tensor or list."""
    if isinstance(values, torch.Tensor):
        require_dense(values, name)
        values = (values.float() if values.is_floating_point() else values).numpy(force=True)
    try:
        values = join_arrays(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers, got rows of different lengths.") from error
    if values.dtype.name in _INTEGER_SCALES:
        if values.dtype.name == "int32" and 0 < np.abs(values).max(initial=0) < 2**15:
            logger.warning(f"`{name}` of int32 is as quiet as samples of int16 would be; those are taken as int16.")
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
