"""Video files: when each frame is shown, and decoding some of them.

A file is gone through twice: once without decoding, to learn when its frames are shown, and once decoding, to keep the
chosen ones. Only the second is costly, and no more than the chosen frames are ever held. What is counted are frames
that a player shows: an edit list hides some, and headers that count otherwise are not believed. Frames are turned as
the file says, and have square pixels.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from .containers import NO_PROTOCOLS, choose_track, is_cut_short, is_joined
from .images import IMAGE_ERRORS
from .sources import Source, describe_source, open_source

_ANIMATIONS = (b"GIF8", b"\x89PNG")  # how images that may move begin; they need no PyAV
_LAST_FRAME = Fraction(1, 25)  # seconds that a last frame is shown for, where nothing says it
_OPACITY_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # of codecs whose usual decoder leaves opacity out

ShrinkFrame = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Timeline:
    """Times of the frames of a video.

    Args:
        num_frames (`int`): Frames there are.
        times (`tuple`, *optional*): For each frame when it is shown, and when the last one ends, in seconds; unknown
            when `None`.
    """

    num_frames: int
    times: tuple[Fraction, ...] | None = None

    @classmethod
    def from_rate(cls, num_frames: int, rate: float | Fraction | None) -> "Timeline":
        """Return that of frames that follow each other `rate` times a second; of unknown times when `None`."""
        if not rate:
            return cls(num_frames)
        return cls(num_frames, tuple(index / Fraction(rate) for index in range(num_frames + 1)))

    @property
    def seconds(self) -> float | None:
        """Length of the video in seconds, where that is known."""
        return None if self.times is None else float(self.times[-1] - self.times[0])

    @property
    def rate(self) -> float | None:
        """Frames a second, on average, where that is known."""
        return self.num_frames / self.seconds if self.seconds else None

    def frames_at(self, count: int) -> list[int]:
        """Return the frames that are shown in the middle of each of `count` equal parts of a video of known times."""
        times: Any = self.times
        part = (times[-1] - times[0]) / (2 * count)
        return [bisect_right(times, times[0] + (2 * index + 1) * part) - 1 for index in range(count)]


@dataclass(frozen=True)
class VideoProbe:
    """Frames of a video file, and their size as they are shown, known without decoding it.

    Args:
        timeline ([`Timeline`]): Its frames.
        height, width (`int`): Their size in pixels, as shown.
    """

    timeline: Timeline
    height: int
    width: int

    @property
    def num_frames(self) -> int:
        """Frames there are."""
        return self.timeline.num_frames

    @property
    def rate(self) -> float | None:
        """Frames a second, on average, where that is known."""
        return self.timeline.rate


def probe_video(source: Source) -> VideoProbe:
    """Return length, rate and size of a video file; at most its first frame is decoded, of an animation all are.

    Raises:
        `ValueError`: It cannot be read, or is cut short.
        `ImportError`: PyAV is needed and not installed.
    """
    with _opened(source) as (file, label, is_image):
        if is_image:
            with _opened_animation(file, label) as animation:
                return VideoProbe(_animation_timeline(animation), animation.height, animation.width)
        timeline, first_key = _container_timeline(file, label)
        with closing(_decode(file, label, first_key)) as frames:
            for _, frame, stream in frames:
                return VideoProbe(timeline, *_show(frame, stream, label).shape[:2])
        raise _without_frames(label)


def is_animation(source: Source) -> bool:
    """Return whether a file is an image that moves."""
    with _opened(source) as (file, label, is_image):
        if not is_image:
            return False
        with _opened_animation(file, label) as image:
            return getattr(image, "n_frames", 1) > 1


def read_video_file(
    source: Source, choose: Callable[[Timeline], list[int]], shrink: ShrinkFrame
) -> list[np.ndarray | Image.Image]:
    """Return the chosen frames of a video file: uint8 `(height, width, 3)`, or 4 with opacity, or PIL images of an
    animation.

    Args:
        source (`str`, `Path`, `bytes` or file): As [`open_source`] takes it.
        choose (callable): Gives the indices of the frames to return, in order; one may come several times.
        shrink (callable): Makes a frame smaller, as it is decoded.

    Raises:
        `ValueError`: It cannot be read, is cut short, or has frames of several sizes.
        `ImportError`: PyAV is needed and not installed.
    """
    with _opened(source) as (file, label, is_image):
        if is_image:
            return _read_animation(file, label, choose)
        timeline, first_key = _container_timeline(file, label)
        for _ in range(2):
            chosen, kept, times = choose(timeline), {}, []
            for time, frame, stream in _decode(file, label, first_key):
                if len(times) in chosen:
                    kept[len(times)] = shrink(_show(frame, stream, label))
                times.append(time)
            if len(times) == timeline.num_frames:
                break
            # Some packets are half a frame, and some frames cannot be decoded without what a cut has taken away.
            timeline = _timeline(len(times), _join_times([times], _LAST_FRAME))
        if not kept:
            raise _without_frames(label)
        sizes = sorted({frame.shape[:2] for frame in kept.values()})
        if len(sizes) > 1:
            raise ValueError(f"`videos` must have frames of one size, got {label} with {sizes[0]} and {sizes[1]}.")
        return [kept[index] for index in chosen]


@contextmanager
def _opened(source: Source) -> Iterator[tuple[BinaryIO, str, bool]]:
    """Give a file, its name for messages, and whether it is an image.

    Raises:
        `ValueError`: There is none, or it is cut short.
    """
    opened, label = open_source(source, "videos"), describe_source(source)
    file = opened.open("rb") if isinstance(opened, Path) else opened
    try:
        head = file.read(16)
        file.seek(0)
        if not head:
            raise ValueError(f"`videos` must not be empty, got {label} of 0 bytes.")
        if is_cut_short(file):
            raise ValueError(f"`videos` must be complete, got {label}, which is cut short.")
        if is_joined(file):
            raise ValueError(f"`videos` must be single files, got {label}, which is several joined.")
        is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
        yield file, label, is_webp or head.startswith(_ANIMATIONS) or head[4:12] in (b"ftypavif", b"ftypavis")
    finally:
        if isinstance(opened, Path):
            file.close()


@contextmanager
def _opened_animation(file: BinaryIO, label: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as animation:
            yield animation
    except IMAGE_ERRORS as error:
        raise ValueError(f"`videos` must be readable, got {label}: {str(error).rstrip('.')}.") from error


def _animation_timeline(animation: Image.Image) -> Timeline:
    """Return the times of an animation, each of whose frames says how many milliseconds it is shown for."""
    times = [Fraction(0)]
    for frame in ImageSequence.Iterator(animation):
        frame.load()
        times.append(times[-1] + Fraction(frame.info.get("duration", 0)) / 1000)
    return _timeline(len(times) - 1, tuple(times))


def _read_animation(
    file: BinaryIO, label: str, choose: Callable[[Timeline], list[int]]
) -> list[np.ndarray | Image.Image]:
    with _opened_animation(file, label) as animation:
        chosen = choose(_animation_timeline(animation))
        frames = enumerate(ImageSequence.Iterator(animation))
        kept = {index: ImageOps.exif_transpose(frame).convert("RGBA") for index, frame in frames if index in chosen}
        return [kept[index] for index in chosen]


def _timeline(num_frames: int, times: tuple[Fraction, ...] | None) -> Timeline:
    """Return a timeline; of unknown times where all frames are at one."""
    return Timeline(num_frames, times if times and times[-1] > times[0] else None)


def _container_timeline(file: BinaryIO, label: str) -> tuple[Timeline, int]:
    """Return when the frames of a file are shown, and which of its packets is the first that can be decoded."""
    packets: list[Any] = []
    with _container(file, label) as (container, stream):
        for packet in container.demux(stream):
            if packet.size:
                times = packet.pts, packet.dts, packet.duration
                packets.append((*times, bool(packet.is_discard), bool(packet.is_keyframe)))
        unit, rate = stream.time_base, stream.average_rate
    keys = [index for index, packet in enumerate(packets) if packet[4]]
    first_key = keys[0] if keys else 0
    shown = [packet for packet in packets[first_key:] if not packet[3]]
    if not shown:
        raise _without_frames(label)
    shown_at = [packet[0] if packet[0] is not None else packet[1] for packet in shown]
    if unit is None or None in shown_at:
        return Timeline.from_rate(len(shown), rate), first_key
    # Joined files start anew: what was decoded later is shown later.
    runs: list[list[Fraction]] = [[]]
    last = None
    for time, packet in zip(shown_at, shown, strict=True):
        if last is not None and packet[1] is not None and packet[1] < last:
            runs.append([])
        runs[-1].append(time * unit)
        last = packet[1] if packet[1] is not None else last
    times = _join_times([sorted(run) for run in runs], _last_length(runs[-1], shown[-1][2], unit, rate))
    return _timeline(len(shown), times), first_key


def _last_length(run: list[Fraction], duration: int | None, unit: Fraction, rate: Fraction | None) -> Fraction:
    """Return for how many seconds the last frame is shown: as its packet says, but not below what is usual."""
    stated = duration * unit if duration else 1 / rate if rate else _LAST_FRAME
    steps = sorted(later - earlier for earlier, later in zip(sorted(run), sorted(run)[1:], strict=False))
    return max(stated, steps[len(steps) // 2]) if steps else stated


def _join_times(runs: list[list[Any]], last: Fraction) -> tuple[Fraction, ...] | None:
    """Return the times of runs one after the other, and the end of the last frame, shown for `last` seconds."""
    if any(time is None for run in runs for time in run) or not any(runs):
        return None
    times: list[Fraction] = [Fraction(0)]
    for run in runs:
        start = times.pop()
        times += [start + time - run[0] for time in run]
        times.append(times[-1] + last)
    return tuple(times)


@contextmanager
def _container(file: BinaryIO, label: str) -> Iterator[tuple[Any, Any]]:
    """Give an open container and its video track.

    Raises:
        `ValueError`: It cannot be read, or has no such track.
    """
    av, errors = _require_av()
    file.seek(0)
    try:
        with av.open(file, options=NO_PROTOCOLS) as container:
            tracks = [
                stream
                for stream in container.streams.video
                if not stream.disposition & av.stream.Disposition.attached_pic  # the cover of a song
            ]
            if not tracks:
                raise ValueError(f"`videos` must have a video track, got {label} without one.")
            yield container, choose_track(tracks)
    except errors as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"`videos` must be readable, got {label}: {reason.rstrip('.')}.") from error


def _without_frames(label: str) -> ValueError:
    return ValueError(f"`videos` must have at least one frame, got {label} without any.")


def _decode(file: BinaryIO, label: str, first_key: int) -> Generator[tuple[Fraction | None, Any, Any], None, None]:
    """Give the frames that are shown, in order, each with its time in seconds and its track."""
    with _container(file, label) as (container, stream):
        decoder, index = _decoder(stream), 0
        for packet in container.demux(stream):
            if packet.size:
                index += 1
                if index <= first_key:  # a recording may begin between two frames that can be decoded alone
                    continue
            for frame in decoder.decode(packet):
                time = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else None
                yield time, frame, stream


def _decoder(stream: Any) -> Any:
    """Return what decodes a track, with its opacity where it has some."""
    av, _ = _require_av()
    name = _OPACITY_DECODERS.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return stream.codec_context
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = stream.codec_context.extradata
    return decoder


def _has_opacity(frame: Any, stream: Any) -> bool:
    codec = stream.codec_context
    if codec.name == "rawvideo" and not codec.codec_tag.strip("\0"):
        return False  # of AVI, where the fourth byte of a pixel means nothing
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _show(frame: Any, stream: Any, label: str) -> np.ndarray:
    """Return a frame as it is shown, uint8 `(height, width, 3)`, or 4 with opacity: with square pixels, and turned as
    the file says.

    Raises:
        `ValueError`: It is to be turned by another angle than quarters of a turn.
    """
    aspect, form = stream.sample_aspect_ratio, "rgba" if _has_opacity(frame, stream) else "rgb24"
    width = max(round(frame.width * aspect), 1) if aspect else frame.width
    if width == frame.width:
        pixels = frame.to_ndarray(format=form)
    else:
        pixels = frame.reformat(width, frame.height, form, interpolation="BICUBIC").to_ndarray()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        pixels = _turn(pixels, struct.unpack("=9i", bytes(matrix)), label)
    return np.ascontiguousarray(pixels)


def _turn(pixels: np.ndarray, matrix: tuple[int, ...], label: str) -> np.ndarray:
    """Turn and mirror pixels: the matrix maps a place `(x, y)` to `(a * x + c * y, b * x + d * y)`."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if a == d == 0 and b and c:
        pixels = pixels.swapaxes(0, 1)
        vertical, horizontal = b, c
    elif b == c == 0 and a and d:
        vertical, horizontal = d, a
    else:
        raise ValueError(f"`videos` must be turned by quarters of a turn, got {label} with the matrix {matrix}.")
    return pixels[:: -1 if vertical < 0 else 1, :: -1 if horizontal < 0 else 1]


def _require_av() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return PyAV, and what it raises on files it cannot read."""
    try:
        import av
        import av.stream
        from av.error import FFmpegError
    except ImportError as error:
        raise ImportError("Video files need PyAV: `pip install josie[video]`.") from error
    return av, (FFmpegError, OSError)
