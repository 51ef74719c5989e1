"""Sound: reading and writing files, waveforms of one shape and rate, and the feature extractor.

Files are read and written with soundfile, and torchaudio does the signal processing. Every accepted form becomes a
float32 array `(channels, num_samples)` in [-1, 1] before anything else happens to it.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import soundfile
import torch
import torchaudio
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from ..configuration_josie import (
    JodioConfig,
    JosieAudioEncoderConfig,
    JosieConfig,
    JosieMelCodecConfig,
    JosieThinkerConfig,
    audio_codec_geometry,
    is_codec,
    reads_waveforms,
)
from .sources import Source, describe_source, is_source, open_source

# What full scale is in integer samples, and where silence lies.
_INTEGER_SCALES = {"int16": (2.0**15, 0), "int32": (2.0**31, 0), "uint8": (2.0**7, 128)}
_LOG_FLOOR = 1e-5
_MAX_OGG_RATE = 200_000  # Hz; beyond, libsndfile does not report an error but crashes
# libsndfile repairs the length of a cut WAV file in silence and only notes it here. Streams leave a huge length behind.
_WAV_LENGTH_NOTE = re.compile(r"data\s*: (\d+) \(should be (\d+)\)")
_STREAM_LENGTH = 0x7FFF0000

AudioInput = Any  # any of the forms that `as_waveform` takes


def resample(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Change the sampling rate with torchaudio's windowed sinc interpolation.

    Args:
        waveform (`np.ndarray`): `(..., num_samples)`.
        sampling_rate, target_rate (`int`): Rates before and after, in Hz.

    Returns:
        `(..., ceil(num_samples * target_rate / sampling_rate))`, float32.

    Raises:
        `ValueError`: A rate is no positive integer.
    """
    ratio = resampling_ratio(sampling_rate, target_rate)
    if ratio == 1:
        return np.asarray(waveform, dtype=np.float32)
    values = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    return torchaudio.functional.resample(values, ratio.denominator, ratio.numerator).numpy()


def resampling_ratio(sampling_rate: int, target_rate: int) -> Fraction:
    """Return by how much [`resample`] makes a waveform longer.

    Raises:
        `ValueError`: A rate is no positive integer.
    """
    sampling_rate = require_rate(sampling_rate)
    target_rate = require_rate(target_rate, "target_rate")
    # The filter bank grows with the ratio's terms: for rates without a common factor it would not fit into memory, and
    # the nearest ratio of small terms is off by less than a millionth.
    return Fraction(target_rate, sampling_rate).limit_denominator(2000) or Fraction(1, 2000)


def require_rate(sampling_rate: Any, name: str = "sampling_rate") -> int:
    """Return `sampling_rate` as an `int`, or raise a `ValueError` that calls it `name`."""
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, (int, np.integer)) or sampling_rate <= 0:
        raise ValueError(f"`{name}` must be a positive integer in Hz, got {sampling_rate!r}.")
    return int(sampling_rate)


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


class JosieFeatureExtractor(SequenceFeatureExtractor):
    """Makes what the Thinker's ear reads: mel spectrograms for an encoder, waveforms for a codec.

    Args:
        output (`"features"` or `"values"`): Mel spectrograms, or waveforms as they are.
        sampling_rate (`int`): Rate that everything is brought to, in Hz.
        num_channels (`1` or `2`): Channels of waveforms; spectrograms are of one.
        num_mel_bins (`int`): Mel bands.
        n_fft, win_length, mel_hop_length (`int`): Short-time Fourier transform, in samples.
        mel_power (`float`): 1 for magnitudes, 2 for power.
        log_mel (`bool`): Take the logarithm of the spectrogram.
        do_normalize (`bool`): Bring each waveform to mean 0 and variance 1.
        padding_value (`float`): What follows a clip that is shorter than others of its batch.
    """

    def __init__(
        self,
        output: Literal["features", "values"] = "features",
        sampling_rate: int = 16000,
        num_channels: int = 1,
        num_mel_bins: int = 128,
        n_fft: int = 1024,
        win_length: int = 400,
        mel_hop_length: int = 160,
        mel_power: float = 2.0,
        log_mel: bool = False,
        do_normalize: bool = False,
        padding_value: float = 0.0,
        **kwargs,
    ):
        if output not in ("features", "values"):
            raise ValueError(f"`output` must be 'features' or 'values', got {output!r}.")
        if num_channels not in ((1,) if output == "features" else (1, 2)):
            raise ValueError(f"`num_channels` must be 1, or 2 for waveforms, got {num_channels}.")
        kwargs.pop("feature_size", None)
        feature_size = num_mel_bins if output == "features" else num_channels
        super().__init__(feature_size, require_rate(sampling_rate), padding_value, **kwargs)
        self.output = output
        self.num_channels = num_channels
        self.num_mel_bins = num_mel_bins
        self.n_fft = n_fft
        self.win_length = win_length
        self.mel_hop_length = mel_hop_length
        self.mel_power = mel_power
        self.log_mel = log_mel
        self.do_normalize = do_normalize

    @property
    def model_input_names(self) -> list[str]:
        """Names of what [`JosieFeatureExtractor.__call__`] returns."""
        if self.output == "features":
            return ["input_features", "input_features_mask"]
        return ["input_values", "padding_mask"]

    @classmethod
    def from_config(cls, audio_config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """Return the feature extractor for a Thinker's `audio_config`: ours, or Whisper's own.

        Raises:
            `ValueError`: It is not known what this kind of encoder reads.
        """
        if isinstance(audio_config, JosieAudioEncoderConfig):
            names = ("sampling_rate", "num_mel_bins", "n_fft", "win_length", "mel_hop_length", "mel_power", "log_mel")
            return cls("features", **{name: getattr(audio_config, name) for name in names})
        if is_codec(audio_config):
            rate = audio_codec_geometry(audio_config).sampling_rate
            return cls("values", sampling_rate=rate, num_channels=getattr(audio_config, "audio_channels", 1))
        if reads_waveforms(audio_config):  # wav2vec 2.0 and its kin, all of them at 16 kHz
            return cls("values", sampling_rate=16000, do_normalize=True)
        if audio_config.model_type == "whisper":
            seconds, rest = divmod(audio_config.max_source_positions, 50)
            if rest:
                raise ValueError(
                    "`audio_config.max_source_positions` must be a multiple of 50 (whole seconds), "
                    f"got {audio_config.max_source_positions}."
                )
            return WhisperFeatureExtractor(feature_size=audio_config.num_mel_bins, chunk_length=seconds)
        raise ValueError(f"`audio_config` of type {audio_config.model_type!r} has no known feature extractor.")

    def __call__(
        self,
        audio: AudioInput,
        sampling_rate: int | None = None,
        return_tensors: Literal["pt", "np"] | None = "pt",
    ) -> BatchFeature:
        """Turn clips into model inputs.

        Args:
            audio: A clip in any form that [`as_waveform`] takes, or a list of clips.
            sampling_rate (`int`, *optional*): Rate of clips that come without one, in Hz.
            return_tensors (`"pt"` or `"np"`, *optional*): Kind of the result; NumPy when `None`.

        Returns:
            [`BatchFeature`] with `input_features` of shape `(num_clips, num_mel_bins, num_frames)` and
            `input_features_mask` of shape `(num_clips, num_frames)`; or with `input_values` of shape
            `(num_clips, num_channels, num_samples)` and `padding_mask` of shape `(num_clips, num_samples)`.

        Raises:
            `ValueError`: As [`as_waveform`], or there is no clip.
        """
        clips = [audio] if is_clip(audio) else list(audio)
        if not clips:
            raise ValueError("`audio` must hold at least one clip, got none.")
        waveforms = [as_waveform(clip, sampling_rate, self.sampling_rate, self.num_channels) for clip in clips]
        if self.do_normalize:
            # As transformers' Wav2Vec2FeatureExtractor does; in a quiet clip it matters where the small number stands.
            waveforms = [(waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7) for waveform in waveforms]
        if self.output == "features":
            waveforms = [self._mel(waveform[0]) for waveform in waveforms]
        length = max(waveform.shape[1] for waveform in waveforms)
        batch = np.full((len(waveforms), self.feature_size, length), self.padding_value, dtype=np.float32)
        mask = np.zeros((len(waveforms), length), dtype=np.int64)
        for row, waveform in enumerate(waveforms):
            batch[row, :, : waveform.shape[1]] = waveform
            mask[row, : waveform.shape[1]] = 1
        return BatchFeature(
            dict(zip(self.model_input_names, (batch, mask), strict=True)), tensor_type=return_tensors or "np"
        )

    def fetch_audio(self, audio: AudioInput, sampling_rate: int | None = None) -> Any:
        """Read clips that are files, and leave the others as they are.

        Args:
            audio: A clip or a list of clips, nested or not.
            sampling_rate (`int`, *optional*): Rate to bring files to, in Hz; this extractor's when `None`.

        Returns:
            `audio` with `{"array": (num_samples,), "sampling_rate": int}` in place of each file, so that its
            rate is not lost on the way.
        """
        rate = require_rate(sampling_rate or self.sampling_rate)
        if is_source(audio):
            return {"array": load_audio(audio, rate), "sampling_rate": rate}
        return audio if is_clip(audio) else [self.fetch_audio(clip, rate) for clip in audio]

    def _mel(self, waveform: np.ndarray) -> np.ndarray:
        """Return the mel spectrogram, `(num_mel_bins, num_samples // mel_hop_length + 1)`, of `(num_samples,)`."""
        num_frames = len(waveform) // self.mel_hop_length + 1
        # Reflection at the edges needs more than half a window of signal: a shorter clip is followed by silence.
        missing = max(self.n_fft // 2 + 1 - len(waveform), 0)
        transform = _mel_transform(
            self.sampling_rate, self.n_fft, self.win_length, self.mel_hop_length, self.num_mel_bins, self.mel_power
        )
        power = transform.spectrogram(torch.from_numpy(np.pad(waveform, (0, missing))))[:, :num_frames]
        # As a pointwise convolution, which oneDNN computes, the bands are summed with fused multiply-adds whatever the
        # matrix library does, so that only the Fourier transform decides about the last digit.
        filters = cast(torch.Tensor, transform.mel_scale.fb)
        mel = torch.nn.functional.conv1d(power[None], filters.T[..., None])[0]
        return (mel.clamp(min=_LOG_FLOOR).log() if self.log_mel else mel).numpy()


@lru_cache(maxsize=8)
def _mel_transform(
    sampling_rate: int, n_fft: int, win_length: int, hop_length: int, num_mel_bins: int, power: float
) -> torchaudio.transforms.MelSpectrogram:
    with warnings.catch_warnings():
        # With many bands the lowest lie between two bins and stay empty; the models were trained with them.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            sampling_rate, n_fft, win_length, hop_length, n_mels=num_mel_bins, power=power
        )


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


for _config in (JosieConfig, JosieThinkerConfig, JosieAudioEncoderConfig, JodioConfig, JosieMelCodecConfig):
    AutoFeatureExtractor.register(_config, JosieFeatureExtractor, exist_ok=True)
