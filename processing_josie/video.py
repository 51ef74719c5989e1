"""Videos of any form: which of their frames to look at, and those as float pixels."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .images import Fit, array_to_pixels, image_size, image_to_pixels, is_image, shrink_frame
from .nested_values import require_dense, to_list
from .sources import is_source, unwrap_source
from .video_files import Timeline, probe_video, read_video_file
from .vision_settings import is_finite, is_integer

_METADATA = ("fps", "duration", "total_num_frames", "frames_indices")  # those of transformers that say when frames are
_OTHER_METADATA = ("width", "height", "video_backend")


def is_video(value: Any) -> bool:
    """Return whether `value` is one video: a file, an array of 4 dimensions, a decoder, or a list of decoded images."""
    value = unwrap_source(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 4
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(is_image(frame) and not is_source(unwrap_source(frame)) for frame in value)
    return is_source(value) or _is_decoder(value) or _is_batch(value)


def _is_decoder(value: Any) -> bool:
    """Return whether `value` is a video decoder of torchcodec."""
    return hasattr(value, "get_frames_at") and hasattr(value, "metadata")


def _is_batch(value: Any) -> bool:
    """Return whether `value` is a batch of frames of torchcodec, with their times."""
    return hasattr(value, "pts_seconds") and getattr(getattr(value, "data", None), "ndim", None) == 4


def choose_frames(
    total: int, rate: float | None, fps: float | None, num_frames: int | None, max_frames: int
) -> list[int]:
    """Return the indices of the frames to look at, each in the middle of an equal part of a video of constant rate.

    Args:
        total (`int`): Frames there are.
        rate (`float`, *optional*): Frames a second there are; unknown when `None`.
        fps (`float`, *optional*): Frames a second to take, where `rate` is known.
        num_frames (`int`, *optional*): Frames to take in all, in place of `fps`; all when there are fewer.
        max_frames (`int`): Most frames to take.
    """
    return _choose(Timeline.from_rate(total, rate), {"fps": fps, "num_frames": num_frames, "max_frames": max_frames})


def _choose(timeline: Timeline, options: dict[str, Any]) -> list[int]:
    """Return the indices of the frames to look at: evenly in time where `fps` asks for it, else evenly among all."""
    total = timeline.num_frames
    is_sampled = options.get("do_sample_frames", True)
    num_frames, fps = (options.get(name) if is_sampled else None for name in ("num_frames", "fps"))
    count = min(total if num_frames is None else num_frames, total, options["max_frames"])
    if num_frames is None and fps is not None:
        if timeline.seconds is not None:
            return timeline.frames_at(min(max(round(timeline.seconds * fps), 1), count))
        if options.get("requires_rate", False):
            raise ValueError(
                f"`fps` must come with `video_metadata` for a video whose own rate is not known, got {fps} without."
            )
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def read_video(video: Any, options: dict[str, Any], fit: Fit | None = None) -> torch.Tensor:
    """Return the chosen frames of a video as float pixels; transparent parts become white.

    Args:
        video: A file, an array or tensor of 4 dimensions, a list of images or image files of one size, a decoder or
            batch of frames of torchcodec.
        options (`dict`): `do_sample_frames`, `fps`, `num_frames`, `max_frames` and `num_channels`, as in
            [`JosieVideoProcessor`]; optionally `do_rescale`, `video_metadata` of this video, and `requires_rate`,
            whether `fps` is refused where the video's own rate is not known.
        fit (callable, *optional*): As of [`image_to_pixels`].

    Returns:
        `(frames, num_channels, height, width)`, float32 in [0, 1], or as they are without `do_rescale`.

    Raises:
        `ValueError`: No frames, frames of several sizes, options out of range, or an unreadable file.
        `ImportError`: PyAV is needed and not installed.
    """
    video, num_channels = unwrap_source(video), options["num_channels"]
    do_rescale = options.get("do_rescale", True)
    if is_source(video):
        frames: Any = read_video_file(
            video,
            lambda timeline: _choose(_apply_metadata(timeline, options), options),
            lambda frame: shrink_frame(frame, fit),
        )
    else:
        frames = _pick(video, _choose(_decoded_timeline(video, options), options))
    if not isinstance(frames, list):
        return array_to_pixels(frames, num_channels, "videos", fit, do_rescale)
    pixels = [image_to_pixels(frame, num_channels, "videos", fit, do_rescale) for frame in frames]
    sizes = sorted({tuple(frame.shape[1:]) for frame in pixels})
    if len(sizes) > 1:
        raise ValueError(f"`videos` must have frames of one size, got {sizes[0]} and {sizes[1]}.")
    return torch.stack(pixels)


def measure_video(video: Any, options: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many frames of a video are looked at, and their height and width; arguments as of [`read_video`]."""
    video = unwrap_source(video)
    if is_source(video):
        probe = probe_video(video)
        return len(_choose(_apply_metadata(probe.timeline, options), options)), probe.height, probe.width
    chosen = _choose(_decoded_timeline(video, options), options)
    return len(chosen), *image_size(_pick(video, chosen[:1])[0], "videos")


def _decoded_timeline(video: Any, options: dict[str, Any]) -> Timeline:
    """Return when the frames of a video that is no file are shown, as far as its metadata say."""
    if _is_decoder(video):
        timeline = Timeline.from_rate(len(video), getattr(video.metadata, "average_fps", None))
    elif _is_batch(video):
        starts = [Fraction(float(time)) for time in video.pts_seconds]
        lengths = [Fraction(float(time)) for time in getattr(video, "duration_seconds", [])]
        timeline = _with_end(starts, starts[-1] + lengths[-1] if starts and lengths else None)
    else:
        timeline = Timeline(len(video))
    if timeline.num_frames == 0:
        raise ValueError("`videos` must have at least one frame, got 0.")
    return _apply_metadata(timeline, options)


def _apply_metadata(timeline: Timeline, options: dict[str, Any]) -> Timeline:
    """Return a timeline with the times that `video_metadata` give.

    Raises:
        `ValueError`: They are of another form or number of frames, or out of range, or have other names.
    """
    metadata = options.get("video_metadata")
    if metadata is None:
        return timeline
    if not isinstance(metadata, Mapping):
        raise ValueError(f"`video_metadata` must be a dict for each video, got a {type(metadata).__name__}.")
    known = (*_METADATA, *_OTHER_METADATA)
    unknown = [name for name in metadata if name not in known]
    if unknown:
        raise ValueError(f"`video_metadata` must have keys among {list(known)}, got {unknown}.")
    fps, duration, total, indices = (metadata.get(name) for name in _METADATA)
    for name, value in (("fps", fps), ("duration", duration or None)):
        if value is not None and not (is_finite(value) and value > 0):
            raise ValueError(f"`video_metadata` must have a finite number greater than 0 as `{name}`, got {value!r}.")
    if indices is not None:
        indices, given = to_list(indices), indices
        if indices is None or not all(is_integer(index) for index in indices):
            raise ValueError(f"`video_metadata` must have integers as `frames_indices`, got {given!r:.200}.")
    count = timeline.num_frames
    if indices is not None and len(indices) != count:
        raise ValueError(f"`video_metadata` must have `frames_indices` of all {count} frames, got {len(indices)}.")
    if indices is None and total is not None and total != count:
        raise ValueError(
            f"`video_metadata` must have the {count} frames of the video as `total_num_frames`, or their "
            f"`frames_indices`, got {total!r}."
        )
    if fps is None and duration:
        fps = (total or count) / duration
    if fps is None:
        return timeline
    rate = Fraction(float(fps))
    if indices is None:
        return Timeline.from_rate(count, rate)
    starts = [int(index) / rate for index in indices]
    return _with_end(starts, None)


def _with_end(starts: list[Fraction], end: Fraction | None) -> Timeline:
    """Return the timeline of frames that begin at `starts`; by default the last is as long as the others on average."""
    if any(later < earlier for earlier, later in zip(starts, starts[1:], strict=False)):
        raise ValueError("`videos` must have frames in the order of time, got `video_metadata` with another.")
    if len(starts) < 2 and end is None:
        return Timeline(len(starts))
    end = starts[-1] + (starts[-1] - starts[0]) / (len(starts) - 1) if end is None else end
    return Timeline(len(starts), (*starts, end)) if end > starts[0] else Timeline(len(starts))


def _pick(video: Any, indices: list[int]) -> Any:
    """Return frames of a video that is no file: an array, a tensor, or a list of images."""
    if _is_decoder(video):
        return video.get_frames_at(indices=indices).data
    if _is_batch(video):
        return video.data[indices]
    require_dense(video, "videos")
    return [video[index] for index in indices] if isinstance(video, (list, tuple)) else video[indices]
