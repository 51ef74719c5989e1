"""Containers of speech: WAV, PCM and Ogg Opus while it is made, FLAC and MP3 when it is finished."""

import io
import struct

import numpy as np
import soundfile

from ...processing_josie.resampling import StreamResampler
from ..media import PCM_RATE, encode_pcm

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_UNKNOWN = 0xFFFFFFFF  # length of a WAV that is not finished
_SUBTYPES = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}


class _Pipe(io.BytesIO):
    """A file whose content is taken away while it is written."""

    def take(self) -> bytes:
        content = self.getvalue()
        self.seek(0)
        self.truncate()
        return content


class Container:
    """A writer of one speech at 24 kHz, mono, and a context in which that is finished or given up.

    Args:
        form (`str`): One of [`MEDIA_TYPES`].
        sampling_rate (`int`): Of the samples that are given.
    """

    def __init__(self, form: str, sampling_rate: int):
        self.form = form
        self._resampler = StreamResampler(sampling_rate, PCM_RATE)
        self._pipe = _Pipe()
        self._file: soundfile.SoundFile | None = None
        self._has_head = form != "wav"
        if form in _SUBTYPES:
            name, subtype = _SUBTYPES[form]
            self._file = soundfile.SoundFile(self._pipe, "w", PCM_RATE, 1, format=name, subtype=subtype)

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *args: object) -> None:
        if self._file is not None:
            self._file.close()  # before the pipe that it writes into is gone

    @property
    def can_stream(self) -> bool:
        """Whether bytes come before the end: a FLAC or MP3 says at its beginning how long it is."""
        return self.form not in ("flac", "mp3")

    def push(self, samples: np.ndarray, is_final: bool = False) -> bytes:
        """Return the bytes that `(num_samples,)` add."""
        values = self._resampler.push(samples[None], is_final=is_final)[0]
        if self._file is None:
            head = b"" if self._has_head else wav_head()
            self._has_head = True
            return head + encode_pcm(values)
        if len(values):
            self._file.write(np.clip(values, -1, 1))
        if is_final:
            self._file.close()
            return self._pipe.take()
        if not self.can_stream:
            return b""
        self._file.flush()
        return self._pipe.take()


def wav_head() -> bytes:
    """Return the head of a WAV whose length nobody knows yet."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, PCM_RATE, 2 * PCM_RATE, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", _UNKNOWN, b"WAVE") + form + struct.pack("<4sI", b"data", _UNKNOWN)


def encode(form: str, samples: np.ndarray, sampling_rate: int) -> bytes:
    """Return a whole speech in a container; a WAV knows its length.

    Args:
        form (`str`): One of [`MEDIA_TYPES`].
        samples (`np.ndarray`): `(num_samples,)`, float in [-1, 1].
        sampling_rate (`int`): Of the samples, in Hz.
    """
    with Container(form, sampling_rate) as container:
        content = container.push(samples, is_final=True)
    if form != "wav":
        return content
    size = len(content) - 44
    return content[:4] + struct.pack("<I", size + 36) + content[8:40] + struct.pack("<I", size) + content[44:]
