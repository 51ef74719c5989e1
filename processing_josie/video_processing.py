"""Video processors: videos of any accepted form to pixels of the size that a vision tower or JOVIO reads."""

from typing import Any, Literal

import numpy as np
import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature

# From the module, as transformers exports a stand-in when torchvision is missing.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.video_processing_utils import VideoProcessorMixin

from ..configuration_josie import JosieConfig, JosieThinkerConfig, JosieVisionEncoderConfig, JovioConfig, is_codec
from .image_processing import JosieImagesKwargs, PixelProcessor, describe_value, front_end_options, pad_to_batch
from .sources import WithOptions, split_options
from .video import choose_frames, is_video, read_video
from .vision_settings import require_obeyed

VideoInput = Any  # a path, frames as an array, a tensor or a list of images; or a list of videos, nested or not


class JosieVideosKwargs(JosieImagesKwargs, total=False):
    """Settings of videos, by the names of [`JosieVideoProcessor`], and what is known of those that are no files.

    Args:
        video_metadata: Of videos that are no files, see [`JosieVideoProcessor.preprocess`].
    """

    temporal_patch_size: int | None
    max_frames: int | None
    do_sample_frames: bool | None
    fps: int | float | None
    num_frames: int | None
    video_metadata: Any


class JosieVideoProcessor(PixelProcessor, VideoProcessorMixin):
    """Processor that makes `pixel_values_videos` of videos. Settings as of [`JosieImageProcessor`], and:

    Args:
        do_sample_frames (`bool`): Choose frames; otherwise take all, up to `max_frames`.
        fps (`float`, *optional*): Frames to take a second, evenly in time, where the video's own rate is known.
        num_frames (`int`, *optional*): Frames to take in all, evenly among them, in place of `fps`.
        max_frames (`int`): Most frames of one video; of more, as many evenly spaced ones are taken.
        temporal_patch_size (`int`): Frames in a patch; 1 where frames are seen one by one.
    """

    valid_kwargs: Any = JosieVideosKwargs
    model_input_names = ["pixel_values_videos", "video_grid_thw"]
    do_sample_frames = True
    fps = 2.0
    max_frames = 32
    temporal_patch_size = 1

    @classmethod
    def from_config(
        cls, vision_config: PreTrainedConfig, max_patches: int = 256, max_frames: int = 32
    ) -> "JosieVideoProcessor":
        """Return the processor for a Thinker's `vision_config`.

        Args:
            vision_config: A tower, whose images have one size, or JOVIO.
            max_patches (`int`): With JOVIO, most patches of one frame.
            max_frames (`int`): Most frames of one video.
        """
        options = front_end_options(vision_config, max_patches)
        max_frames = max(min(max_frames, getattr(vision_config, "max_frames", max_frames)), 1)
        temporal = getattr(vision_config, "temporal_patch_size", 1) if is_codec(vision_config) else 1
        return cls(**options, temporal_patch_size=temporal, max_frames=max_frames)

    def preprocess(
        self, videos: VideoInput, return_tensors: Literal["pt", "np"] | None = "pt", **kwargs
    ) -> BatchFeature:
        """Turn videos into model inputs.

        Args:
            videos: A video or a list of videos, nested or not: paths, URLs, bytes, open files; arrays or tensors
                `(frames, height, width, channels)` or `(frames, channels, height, width)`; lists of images; decoders of
                torchcodec.
            return_tensors (`"pt"` or `"np"`, *optional*): Form of the result; NumPy when `None`.
            kwargs: Settings for this call, by the names of the constructor, and `video_metadata`: a dict or
                `VideoMetadata` for each video, whose `fps` (or `duration`) says how fast its frames follow each other,
                and `frames_indices` which frames of the original they are. `fps` is refused for a video whose own rate
                is not known.

        Returns:
            [`BatchFeature`] with `pixel_values_videos`, `(num_videos, frames, channels, height, width)`, 0 beyond
            shorter and smaller videos, and `video_grid_thw`, `(num_videos, 3)`, their numbers of patches; where a patch
            has one frame, the first of these is the number of real frames.

        Raises:
            `ValueError`: As [`JosieImageProcessor.preprocess`], or metadata that do not fit the videos.
            `ImportError`: A file is given and PyAV is not installed.
        """
        pixels, options = self._read_videos(videos, kwargs)
        temporal, patch = options["temporal_patch_size"], options["patch_size"]
        # The last patch of a video is filled with its last frame, and not with what follows it in the batch.
        pixels = [torch.cat([video] + [video[-1:]] * (-len(video) % temporal)) for video in pixels]
        grid = [[len(video) // temporal, video.shape[2] // patch, video.shape[3] // patch] for video in pixels]
        data = {"pixel_values_videos": pad_to_batch(pixels).numpy(), "video_grid_thw": np.array(grid)}
        return BatchFeature(data, tensor_type=return_tensors or "np")

    def sample_frames(
        self, metadata: Any, num_frames: int | None = None, fps: int | float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Return the indices of the frames that would be taken of a video.

        Args:
            metadata (`VideoMetadata` or `dict`): With `total_num_frames`, and `fps` where that is known.
            num_frames (`int`, *optional*), fps (`float`, *optional*): As in the constructor.
            kwargs: Other settings, by the names of the constructor.

        Raises:
            `ValueError`: `fps` for a video whose own rate is not known, or a setting that there is not.
        """
        options = self._video_options(kwargs | {"num_frames": num_frames, "fps": fps})
        num_frames, fps = (options[name] if options["do_sample_frames"] else None for name in ("num_frames", "fps"))
        if options["requires_rate"] and metadata["fps"] is None:
            raise ValueError(f"`fps` must be None for a video whose own rate is not known, got {fps}.")
        chosen = choose_frames(metadata["total_num_frames"], metadata["fps"], fps, num_frames, options["max_frames"])
        return np.array(chosen)

    def item_options(self, own: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings for a video that has some of its own, as [`read_video`] takes them."""
        return self._own_options(self._video_options({}), own or {})

    def _video_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return this processor's settings with those of one call on top."""
        options = self.get_options(kwargs)
        self._check_options(options)
        require_obeyed(kwargs, options)
        options["requires_rate"] = kwargs.get("fps") is not None
        return options | ({"num_frames": None} if options["requires_rate"] else {})

    def _own_options(self, options: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        if not own:
            return options
        changed = self._item_options(options, own)
        if own.get("fps") is not None:
            changed |= {"num_frames": None, "requires_rate": True}
        return changed

    def _read_videos(self, videos: VideoInput, kwargs: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
        """Return the chosen frames of each video, resized and normalised, and the settings of the call."""
        options = self._video_options(kwargs)
        items = flatten_videos(videos)
        if not items:
            raise ValueError("`videos` must hold at least one video, got none.")
        metadata = _flatten_metadata(options.pop("video_metadata"), len(items))
        pixels = []
        for item, about in zip(items, metadata, strict=True):
            video, own = split_options(item)
            own_options = self._own_options(options, own)
            if about is not None:
                own_options = own_options | {"video_metadata": about}
            frames = read_video(video, own_options, self.get_fit(own_options))
            pixels.append(self._transform(frames, own_options))
        return pixels, options

    def fetch_videos(self, video_url_or_urls: VideoInput, sample_indices_fn: Any = None) -> VideoInput:
        """Return `videos` as they are: [`JosieVideoProcessor.preprocess`] reads them."""
        return video_url_or_urls


def _flatten_metadata(metadata: Any, num_videos: int) -> list[Any]:
    """Return metadata for each video, `None` where nothing is known.

    Raises:
        `ValueError`: They are of another number of videos.
    """
    if metadata is None:
        return [None] * num_videos
    if not isinstance(metadata, (list, tuple)):
        metadata = [metadata]
    flat = [part for item in metadata for part in (item if isinstance(item, (list, tuple)) else [item])]
    if len(flat) != num_videos:
        raise ValueError(f"`video_metadata` must be of all {num_videos} videos, got {len(flat)}.")
    return flat


def flatten_videos(videos: VideoInput) -> list[Any]:
    """Return a flat list of videos from a video, a batch array or lists of them."""
    if isinstance(videos, WithOptions) or is_video(videos):
        return [videos]
    if isinstance(videos, (list, tuple)):
        return [video for item in videos for video in flatten_videos(item)]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return list(videos)
    raise ValueError(
        f"`videos` must be lists of images, arrays of 4 or 5 dimensions, or files, got {describe_value(videos)}."
    )


class JovioVideoProcessor(JosieVideoProcessor):
    """Processor of what [`JovioModel`] takes of videos: [`JosieVideoProcessor`], by the names of the codec alone.

    An image in a list is a video of one frame, so `[[image], "clip.mp4"]` is a batch of both.
    """

    model_input_names = ["pixel_values", "grid_thw", "num_frames"]

    def preprocess(
        self, videos: VideoInput, return_tensors: Literal["pt", "np"] | None = "pt", **kwargs
    ) -> BatchFeature:
        """Turn videos into the codec's inputs. Arguments and errors as in [`JosieVideoProcessor.preprocess`].

        Returns:
            [`BatchFeature`] with `pixel_values`, `(num_videos, frames, channels, height, width)`, 0 beyond shorter and
            smaller videos; `grid_thw`, `(num_videos, 3)`, their numbers of patches; and `num_frames`, `(num_videos,)`.
        """
        pixels, options = self._read_videos(videos, kwargs)
        temporal, patch = options["temporal_patch_size"], options["patch_size"]
        grid = [[-(-len(video) // temporal), video.shape[2] // patch, video.shape[3] // patch] for video in pixels]
        counts = np.array([len(video) for video in pixels])
        data = {"pixel_values": pad_to_batch(pixels).numpy(), "grid_thw": np.array(grid), "num_frames": counts}
        return BatchFeature(data, tensor_type=return_tensors or "np")


for _config in (JosieConfig, JosieThinkerConfig, JosieVisionEncoderConfig):
    AutoVideoProcessor.register(_config, JosieVideoProcessor, exist_ok=True)
AutoVideoProcessor.register(JovioConfig, JovioVideoProcessor, exist_ok=True)
