"""Audio files that grow while their samples come."""

import errno
import io
import os
import struct
import wave
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch

from .audio import check_audio_file, unwritable


class AudioWriter:
    """An audio file that is written piece by piece; it can be played at any time as far as it goes.

    What it holds at the end is what [`save_audio`] writes at once. Use it as a context manager, or `close` it. Where it
    cannot be written any more, as on a full disk, it is removed. A pipe or a device takes WAV, whose header then says
    the largest length, as of streams whose end nobody knows.

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
        self._sampling_rate = sampling_rate
        self._format = check_audio_file(self.path, sampling_rate)
        self._opened = ExitStack()
        self._wave: wave.Wave_write | None = None
        self._file: Any = None
        options: dict[str, Any] = {"samplerate": sampling_rate, "channels": num_channels, "format": self._format}
        try:  # in memory, so that nothing is lost where the format has no such rate or channels
            soundfile.SoundFile(io.BytesIO(), "w", **options).close()
        except soundfile.SoundFileError as error:
            raise unwritable(self.path, self._format, sampling_rate, error) from error
        is_stream = self.path.exists() and not self.path.is_file()
        with self._told(keeps_file=self.path.exists()):
            if is_stream and self._format != "WAV":
                raise OSError(errno.ESPIPE, "a pipe or a device takes WAV alone while it is made")
            if is_stream:
                self._file = self._opened.enter_context(self.path.open("wb"))
                self._file.write(_endless_header(sampling_rate, num_channels))
            elif self._format == "WAV":  # whose header has a length, which `wave` keeps right
                self._file = self._opened.enter_context(self.path.open("wb"))
                self._wave = self._opened.enter_context(wave.Wave_write(self._file))
                self._wave.setparams((num_channels, 2, sampling_rate, 0, "NONE", "not compressed"))
            else:
                file = soundfile.SoundFile(cast(Any, os.fsencode(self.path)), "w", **options)
                self._file = self._opened.enter_context(file)

    @contextmanager
    def _told(self, keeps_file: bool = False) -> Iterator[None]:
        """Turn what soundfile and the file system raise into an error that names the file, and remove the file."""
        try:
            yield
        except (soundfile.SoundFileError, OSError) as error:
            with suppress(soundfile.SoundFileError, OSError):
                self._opened.close()
            file = self.path.resolve()
            if file.is_file() and not keeps_file:  # and no device
                with suppress(OSError):
                    file.unlink()
            raise unwritable(self.path, self._format, self._sampling_rate, error) from error

    def write(self, values: np.ndarray | torch.Tensor) -> None:
        """Append a waveform, `(channels, num_samples)`, in [-1, 1]; what is beyond is clipped.

        Raises:
            `ValueError`: It has other channels, or the file cannot be written any more.
        """
        samples = np.clip(np.asarray(values, dtype=np.float32), -1.0, 1.0).T
        if samples.ndim != 2 or samples.shape[1] != self.num_channels:
            raise ValueError(f"`values` must be ({self.num_channels}, num_samples), got shape {np.shape(values)}.")
        with self._told():
            if self._wave is not None:
                self._wave.writeframes(_to_int16(samples).tobytes())
            elif self._format == "WAV":
                self._file.write(_to_int16(samples).tobytes())
            else:
                self._file.write(samples)
            self._file.flush()  # so that others see what is written

    def close(self) -> None:
        """End the file.

        Raises:
            `ValueError`: Its end cannot be written.
        """
        with self._told():
            self._opened.close()

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def _endless_header(sampling_rate: int, num_channels: int) -> bytes:
    """Return the header of a WAV of 16 bits whose length nobody knows; it has the largest."""
    width = 2 * num_channels  # bytes of a sample of all channels
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, num_channels, sampling_rate, sampling_rate * width, width, 16)
    longest = 2**32 - 1
    return struct.pack("<4sI4s", b"RIFF", longest, b"WAVE") + form + struct.pack("<4sI", b"data", longest - 36)


def _to_int16(samples: np.ndarray) -> np.ndarray:
    """Return float32 samples as libsndfile writes them: the upper half of 32 bits."""
    scaled = np.rint(samples.astype(np.float64) * 2.0**31)
    return np.floor(np.clip(scaled, -(2.0**31), 2.0**31 - 1) / 2.0**16).astype("<i2")
