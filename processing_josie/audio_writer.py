"""Audio files that grow while their samples come."""

import wave
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from .audio import check_audio_file


class AudioWriter:
    """An audio file that is written piece by piece; it can be played at any time as far as it goes.

    What it holds at the end is what [`save_audio`] writes at once. Use it as a context manager, or `close` it.

    Args:
        path (`str` or `Path`): Where to; the suffix chooses the format (`.wav`, `.flac`, `.ogg`, `.mp3`...).
        sampling_rate (`int`): In Hz.
        num_channels (`int`): 1 or 2.

    Raises:
        `ValueError`: No such folder or format, or a rate the format does not know.
    """

    def __init__(self, path: str | Path, sampling_rate: int, num_channels: int = 1):
        self.path = Path(path)
        self.num_channels = num_channels
        file_format = check_audio_file(self.path, sampling_rate)
        self._opened = ExitStack()
        self._wave: wave.Wave_write | None = None
        self._file: Any = None
        try:
            if file_format == "WAV":  # whose header has a length, which `wave` keeps right
                # Unbuffered, so that others see what is written.
                raw = self._opened.enter_context(self.path.open("wb", buffering=0))
                self._wave = self._opened.enter_context(wave.Wave_write(raw))
                self._wave.setparams((num_channels, 2, sampling_rate, 0, "NONE", "not compressed"))
            else:
                file = soundfile.SoundFile(self.path, "w", sampling_rate, num_channels, format=file_format)
                self._file = self._opened.enter_context(file)
        except (soundfile.SoundFileError, OSError) as error:
            raise ValueError(
                f"`path` must be writable as {file_format} at {sampling_rate} Hz, got {str(path)!r}: {error}."
            ) from error

    def write(self, values: np.ndarray | torch.Tensor) -> None:
        """Append a waveform, `(channels, num_samples)`, in [-1, 1]; what is beyond is clipped.

        Raises:
            `ValueError`: It has other channels.
        """
        samples = np.clip(np.asarray(values, dtype=np.float32), -1.0, 1.0).T
        if samples.ndim != 2 or samples.shape[1] != self.num_channels:
            raise ValueError(f"`values` must be ({self.num_channels}, num_samples), got shape {np.shape(values)}.")
        if self._wave is not None:
            self._wave.writeframes(_to_int16(samples).tobytes())
        else:
            self._file.write(samples)
            self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._opened.close()

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def _to_int16(samples: np.ndarray) -> np.ndarray:
    """Return float32 samples as libsndfile writes them: the upper half of 32 bits."""
    scaled = np.rint(samples.astype(np.float64) * 2.0**31)
    return np.floor(np.clip(scaled, -(2.0**31), 2.0**31 - 1) / 2.0**16).astype("<i2")
