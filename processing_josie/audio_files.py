"""Audio files: decoding them, whole or in part, and their length.

libsndfile (soundfile) reads WAV, FLAC, Ogg, MP3, AIFF and others; what it does not know, such as M4A, AAC, WebM or the
audio track of a video, PyAV reads where it is installed. A length is never an estimate: frames are counted instead.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .audio_sizes import fill_sizes, find_unfilled
from .audio_streams import CutShortError, UnknownLengthError, skip_tags, split_streams
from .containers import NO_PROTOCOLS, choose_track, is_cut_short, is_intact_ogg, is_joined
from .sources import Source, describe_source, open_source

# Codecs of Ogg that libsndfile decides about, as about FLAC: what it refuses of them is damaged, or has times that it
# does not believe, as where its beginning was cut off.
_OGG_CODECS = (b"\x01vorbis", b"OpusHead")
# What libsndfile notes in its log when it has repaired the length of a cut file in silence.
_CUT_NOTE = re.compile(r"(?:data|Data Size|SSND|BODY|Riff size|riff)\s*: (\d+) \(should be (\d+)\)")
_STREAM_LENGTH = 0x7FFF0000  # lengths from here on come from writers to a pipe, who did not know them
_NIST_LENGTH = re.compile(rb"sample_count -i (\d+)")
_FRAME_STREAMS = ("ac3", "eac3", "dts")  # frames without a container, the last of which may lack its end
_UNKNOWN_LENGTH = 1 << 62  # samples; what libsndfile gives for FLAC from a pipe is larger


@dataclass
class AudioFile:
    """An open audio file.

    Args:
        sampling_rate (`int`): In Hz.
        num_channels (`int`): Channels.
        num_samples (`int`): Its length, exactly.
        read_part (callable): Gives samples from one to another, float32 `(num_channels, num_samples)`.
    """

    sampling_rate: int
    num_channels: int
    num_samples: int
    read_part: Callable[[int, int], np.ndarray]

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the samples from `start` to `stop`, float32 `(num_channels, stop - start)`; all of them by default.

        Raises:
            `ValueError`: There are fewer than the file says.
        """
        return self.read_part(start, self.num_samples if stop is None else stop)


@contextmanager
def open_audio(source: Source) -> Iterator[AudioFile]:
    """Open an audio file.

    Args:
        source (`str`, `Path`, `bytes` or file): As [`open_source`] takes it.

    Raises:
        `ValueError`: It cannot be opened, or, here or while it is read, it is damaged or cut short.
    """
    opened, label = open_source(source, "audio"), describe_source(source)
    with ExitStack() as stack:
        with _told_of(label):
            file = _open(opened, label, stack)
        yield file


@contextmanager
def _told_of(label: str) -> Iterator[None]:
    """Turn what libsndfile and the file system raise into an error that names the file."""
    try:
        yield
    except (soundfile.SoundFileError, TypeError, OSError) as error:
        raise _unreadable(label, str(getattr(error, "error_string", error))) from error
    except CutShortError as error:
        raise ValueError(f"`audio` must be a complete audio file, got {label}, which is cut short.") from error


def is_audio_file(source: Source) -> bool:
    """Return whether a file can be opened as audio."""
    try:
        with open_audio(source):
            return True
    except ValueError:
        return False


def _open(opened: Path | BinaryIO, label: str, stack: ExitStack) -> AudioFile:
    given = stack.enter_context(opened.open("rb")) if isinstance(opened, Path) else opened
    file = skip_tags(given)
    opened = opened if file is given else file
    head = file.read(12)
    file.seek(0)
    if is_joined(file):
        raise _joined(label)
    streams: list[Any] = []
    try:
        streams = _streams(opened, file, head)
        files = [stack.enter_context(soundfile.SoundFile(stream)) for stream in streams]
        if any(part.frames > _UNKNOWN_LENGTH or _is_misread(part) for part in files):
            raise UnknownLengthError
    except (soundfile.LibsndfileError, UnknownLengthError, TypeError) as error:
        file.seek(0)
        start = file.read(128)
        file.seek(0)
        is_own = start[:4] == b"fLaC" or start[:4] == b"OggS" and any(codec in start for codec in _OGG_CODECS)
        if is_own and not is_intact_ogg(file) and not isinstance(error, UnknownLengthError):
            raise
        if len(streams) > 1:
            raise _joined(label) from error
        return _decode(file, label, error)
    rates, channels = {part.samplerate for part in files}, {part.channels for part in files}
    if len(rates) > 1 or len(channels) > 1:
        raise ValueError(
            "`audio` must have one sampling rate and number of channels throughout, got "
            f"{label} of {sorted(rates)} Hz and {sorted(channels)} channels."
        )
    for part in files:
        _require_complete(part, head, file if len(files) == 1 else None)
    return _join(files, label)


def _is_misread(part: soundfile.SoundFile) -> bool:
    """Return whether libsndfile opens a file that it cannot read rightly.

    It takes the heads of the further blocks of a VOC file for samples, and floats and logarithms of an extensible W64
    for integers, guesses the length of an MP3 inside a WAV, and does not know where it is in GSM 06.10.
    """
    if part.format == "VOC":
        return "multi-segment" in part.extra_info
    if part.format == "W64" and "WAVE_FORMAT_EXTENSIBLE" in part.extra_info and "format : pcm" not in part.extra_info:
        return True
    return not part.seekable() or part.format in ("WAV", "WAVEX") and part.subtype.startswith("MPEG")


def _streams(opened: Path | BinaryIO, file: BinaryIO, head: bytes) -> list[Any]:
    """Return what libsndfile is to open one after the other: the file itself, unless it has to be split or repaired."""
    is_exact = head[:4] == b"RIFF" and file.seek(0, io.SEEK_END) == 8 + int.from_bytes(head[4:8], "little")
    file.seek(0)
    if is_exact and not find_unfilled(file):  # nothing is behind it, and it may be long
        return [_as_named(opened)]
    content = file.read()
    file.seek(0)
    streams = [fill_sizes(stream) for stream in split_streams(content)]
    return [_as_named(opened)] if streams == [content] else [io.BytesIO(stream) for stream in streams]


def _as_named(opened: Path | BinaryIO) -> bytes | BinaryIO:
    """Return what soundfile opens: the name of a path as bytes, as it does not encode every name itself."""
    return os.fsencode(opened) if isinstance(opened, Path) else opened


def _require_complete(part: soundfile.SoundFile, head: bytes, file: BinaryIO | None) -> None:
    """Raise a `CutShortError` if libsndfile found less than the file says that there is."""
    notes = [(int(note[1]), int(note[2])) for note in _CUT_NOTE.finditer(part.extra_info)]
    is_cut = any(found < promised < _STREAM_LENGTH for promised, found in notes)
    if file is not None and head[:7] == b"NIST_1A":
        place = file.tell()
        file.seek(0)
        promised = _NIST_LENGTH.search(file.read(1024))
        file.seek(place)
        is_cut = is_cut or (promised is not None and part.frames < int(promised[1]))
    if is_cut or "truncated file" in part.extra_info:
        raise CutShortError


def _join(files: list[soundfile.SoundFile], label: str) -> AudioFile:
    """Return files one after the other as one."""
    lengths = [part.frames for part in files]

    def read(start: int, stop: int) -> np.ndarray:
        pieces, offset = [], 0
        for part, length in zip(files, lengths, strict=True):
            first, last = max(start - offset, 0), min(stop - offset, length)
            if first < last or len(files) == 1:
                with _told_of(label):
                    pieces.append(_read_part(part, first, last))
            offset += length
        return np.concatenate(pieces, axis=1)

    return AudioFile(files[0].samplerate, files[0].channels, sum(lengths), read)


def _read_part(part: soundfile.SoundFile, start: int, stop: int) -> np.ndarray:
    if start != part.tell():
        part.seek(start)
    values = part.read(stop - start, dtype="float32", always_2d=True).T
    if values.shape[1] < stop - start:
        raise CutShortError
    return values


def _decode(file: BinaryIO, label: str, refusal: Exception) -> AudioFile:
    """Decode a file that libsndfile refuses with PyAV."""
    reason = str(getattr(refusal, "error_string", refusal)) or "it does not say how long it is"
    if is_cut_short(file):
        raise CutShortError
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        known = f"{reason.rstrip('.')}; other formats need PyAV (`pip install josie[video]`)"
        raise _unreadable(label, known) from error
    try:
        with av.open(file, options=NO_PROTOCOLS) as container:
            reason = "it cannot be decoded"
            track = choose_track(container.streams.audio)
            if track is None:
                raise ValueError(f"`audio` must have an audio track, got {label} without one.")
            resampler = av.AudioResampler(format="fltp")
            pieces, forms, sizes = [], set(), []
            for packet in container.demux(track):
                sizes += [packet.size] if packet.size else []
                for frame in packet.decode():
                    forms.add((frame.sample_rate, frame.layout.name))
                    if len(forms) > 1:
                        raise ValueError(
                            "`audio` must have one sampling rate and number of channels throughout, got "
                            f"{label} with {sorted(forms)}."
                        )
                    pieces += [part.to_ndarray() for part in resampler.resample(frame)]
            if container.format.name in _FRAME_STREAMS:
                rest = file.seek(0, io.SEEK_END) - sum(sizes)  # less than the head of a frame
                if sizes[-1] < min(sizes[:-1], default=0) or 0 < rest < sizes[-1]:
                    raise CutShortError
            pieces += [part.to_ndarray() for part in resampler.resample(None)] if pieces else []
    except FFmpegError as error:
        raise _unreadable(label, reason) from error
    if not pieces:
        raise ValueError(f"`audio` must have at least one sample, got {label} without any.")
    values, (rate, _) = np.concatenate(pieces, axis=1), forms.pop()
    return AudioFile(rate, len(values), values.shape[1], lambda start, stop: values[:, start:stop])


def _joined(label: str) -> ValueError:
    return ValueError(f"`audio` must be single files of this kind, got {label}, which is several joined.")


def _unreadable(label: str, reason: str) -> ValueError:
    return ValueError(f"`audio` must be a readable audio file, got {label}: {reason.rstrip('.')}.")
