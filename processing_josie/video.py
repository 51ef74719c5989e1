"""Videos: which frames of a file to look at, and reading only those.

A file is gone through twice: once without decoding, to count its frames, and once decoding, to keep the chosen ones.
Only the second is costly, and no more than the chosen frames are ever held.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence

from .images import array_to_pixels, image_to_pixels, is_image
from .sources import Source, describe_source, is_source, open_source

_GIF = (b"GIF87a", b"GIF89a")  # how such files begin


def is_video(value: Any) -> bool:
    """Return whether `value` is one video: a file, an array of 4 dimensions, or a list of decoded pictures."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 4
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(is_image(frame) and not is_source(frame) for frame in value)
    return is_source(value)


def choose_frames(
    total: int, rate: float | None, fps: float | None, num_frames: int | None, max_frames: int
) -> list[int]:
    """Return the indices of the frames to look at, each in the middle of an equal part of the video.

    Args:
        total (`int`): Frames there are.
        rate (`float`, *optional*): Frames a second there are; unknown when `None`.
        fps (`float`, *optional*): Frames a second to take, where `rate` is known.
        num_frames (`int`, *optional*): Frames to take in all, in place of `fps`; all when there are fewer.
        max_frames (`int`): Most frames to take.
    """
    if num_frames is not None:
        count = num_frames
    elif fps is not None and rate is not None:
        count = max(round(total * fps / rate), 1)
    else:
        count = total
    count = min(count, total, max_frames)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def read_video(video: Any, options: dict[str, Any]) -> torch.Tensor:
    """Return the chosen frames of a video as float pixels.

    Args:
        video: A file, an array or tensor of 4 dimensions, or a list of pictures of one size.
        options (`dict`): `do_sample_frames`, `fps`, `num_frames`, `max_frames` and `num_channels`, as in
            [`JosieVideoProcessor`].

    Returns:
        `(frames, num_channels, height, width)`, float32 in [0, 1].

    Raises:
        `ValueError`: No frames, or an unreadable file.
        `ImportError`: PyAV is needed and not installed.
    """
    fps, num_frames = (options[name] if options["do_sample_frames"] else None for name in ("fps", "num_frames"))
    for name, value in (("fps", fps), ("num_frames", num_frames)):
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be greater than 0, got {value}.")
    wanted = (fps, num_frames, options["max_frames"])
    if is_source(video):
        frames = _read_file(video, wanted)
    else:
        if len(video) == 0:
            raise ValueError("`videos` must have at least one frame, got 0.")
        indices = choose_frames(len(video), None, *wanted)
        frames = [video[index] for index in indices] if isinstance(video, (list, tuple)) else video[indices]
    if not isinstance(frames, list):
        return array_to_pixels(frames, options["num_channels"], "videos")
    pixels = [image_to_pixels(frame, options["num_channels"], "videos") for frame in frames]
    sizes = sorted({tuple(frame.shape[1:]) for frame in pixels})
    if len(sizes) > 1:
        raise ValueError(f"`videos` must have frames of one size, got {sizes[0]} and {sizes[1]}.")
    return torch.stack(pixels)


def _read_file(source: Source, wanted: tuple[float | None, int | None, int]) -> np.ndarray | list[Image.Image]:
    opened = open_source(source, "videos")
    if isinstance(opened, Path):
        with opened.open("rb") as file:
            return _read_stream(file, describe_source(source), wanted)
    return _read_stream(opened, describe_source(source), wanted)


def _read_stream(file: Any, label: str, wanted: tuple[float | None, int | None, int]) -> np.ndarray | list[Image.Image]:
    start = file.read(6)
    file.seek(0)
    if not start:
        raise ValueError(f"`videos` must not be empty, got {label} of 0 bytes.")
    if start in _GIF:
        return _read_gif(file, label, wanted)
    return _read_container(file.read() if not file.seekable() else file, label, wanted)


def _read_gif(file: Any, label: str, wanted: tuple[float | None, int | None, int]) -> list[Image.Image]:
    """Return the chosen frames of an animation with Pillow, which needs no PyAV."""
    try:
        with Image.open(file) as animation:
            times = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(animation)]
            rate = 1000 * len(times) / sum(times) if sum(times) else None
            chosen = set(choose_frames(len(times), rate, *wanted))
            frames = ImageSequence.Iterator(animation)
            return [frame.convert("RGBA") for index, frame in enumerate(frames) if index in chosen]
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"`videos` must be readable, got {label}: {str(error).rstrip('.')}.") from error


@dataclass(frozen=True)
class VideoProbe:
    """What is known of a video without decoding it: how many frames it has, of what size, and their rate in Hz."""

    num_frames: int
    height: int
    width: int
    rate: float | None


def probe_video(source: Source) -> VideoProbe | None:
    """Return what is known of a file without decoding it; `None` of an animated GIF.

    Raises:
        `ValueError`: It cannot be read, or is cut short.
        `ImportError`: PyAV is needed and not installed.
    """
    opened, label = open_source(source, "videos"), describe_source(source)
    if isinstance(opened, Path):
        with opened.open("rb") as file:
            return _probe_stream(file, label)
    return _probe_stream(opened, label)


def _probe_stream(file: Any, label: str) -> VideoProbe | None:
    start = file.read(6)
    file.seek(0)
    probe = None if start in _GIF else _probe_container(file, label)
    file.seek(0)
    return probe


def _probe_container(file: Any, label: str) -> VideoProbe:
    av, errors = _require_av()
    try:
        with av.open(file) as container:
            if not container.streams.video:
                raise ValueError(f"`videos` must have a picture track, got {label} without one.")
            stream = container.streams.video[0]
            promised = stream.frames
            total = sum(1 for packet in container.demux(stream) if packet.size)
            rate = float(stream.average_rate) if stream.average_rate else None
            height, width = stream.codec_context.height, stream.codec_context.width
    except errors as error:
        raise _unreadable(label, error) from error
    if total == 0 or total < promised:
        raise ValueError(f"`videos` must be complete, got {label} with {total} of {promised} frames.")
    return VideoProbe(total, height, width, rate)


def _read_container(file: Any, label: str, wanted: tuple[float | None, int | None, int]) -> np.ndarray:
    """Return the chosen frames, `(frames, height, width, 3)` in uint8, of a file with PyAV."""
    av, errors = _require_av()
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    probe = _probe_container(file, label)
    chosen = set(choose_frames(probe.num_frames, probe.rate, *wanted))
    file.seek(0)
    try:
        with av.open(file) as container:
            frames = enumerate(container.decode(video=0))
            kept = [frame.to_ndarray(format="rgb24") for index, frame in frames if index in chosen]
    except errors as error:
        raise _unreadable(label, error) from error
    if len(kept) < len(chosen):
        raise ValueError(f"`videos` must be complete, got {label}, which cannot be decoded to its end.")
    return np.stack(kept)


def _require_av() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return PyAV, and what it raises on files it cannot read."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ImportError("Video files need PyAV: `pip install josie[video]`.") from error
    return av, (FFmpegError, OSError)


def _unreadable(label: str, error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or str(error)
    return ValueError(f"`videos` must be readable, got {label}: {reason.rstrip('.')}.")
