"""Video processors: videos of any accepted form to pixels of the size that a vision tower or JOVIO reads."""

from typing import Any, Literal

import numpy as np
import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature

# From the module, as transformers exports a stand-in when torchvision is missing.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin

from ..configuration_josie import JosieConfig, JosieThinkerConfig, JosieVisionEncoderConfig, JovioConfig, is_codec
from .image_processing import PixelProcessor, describe_value, front_end_options, pad_to_batch
from .video import is_video, read_video

VideoInput = Any  # a path, frames as an array, a tensor or a list of images; or a list of videos, nested or not


class JosieVideosKwargs(VideosKwargs, total=False):
    """What can be set for videos beyond transformers' own.

    Args:
        num_channels (`1` or `3`): Grey or colour.
        patch_size (`int`): Height and width of a patch, in pixels.
        temporal_patch_size (`int`): Frames in a patch; 1 where frames are seen one by one.
        max_frames (`int`): Most frames of one video.
    """

    num_channels: int | None
    patch_size: int | None
    temporal_patch_size: int | None
    max_frames: int | None


class JosieVideoProcessor(VideoProcessorMixin, PixelProcessor):
    """Makes `pixel_values_videos` of videos. Settings as [`JosieImageProcessor`]'s, and:

    Args:
        do_sample_frames (`bool`): Choose frames; otherwise take all, up to `max_frames`.
        fps (`float`, *optional*): Frames to take a second, where the video's own rate is known.
        num_frames (`int`, *optional*): Frames to take in all, evenly spaced, in place of `fps`.
        max_frames (`int`): Most frames of one video; of more, as many evenly spaced ones are taken.
        temporal_patch_size (`int`): Frames in a patch; 1 where frames are seen one by one.
    """

    valid_kwargs = JosieVideosKwargs
    model_input_names = ["pixel_values_videos", "video_grid_thw"]
    do_sample_frames = True
    fps = 2.0
    max_frames = 32
    temporal_patch_size = 1

    def __init__(self, **kwargs):
        PixelProcessor.__init__(self, **kwargs)

    @classmethod
    def from_config(
        cls, vision_config: PreTrainedConfig, max_patches: int = 256, max_frames: int = 32
    ) -> "JosieVideoProcessor":
        """Return the processor for a Thinker's `vision_config`.

        Args:
            vision_config: A tower, whose pictures have one size, or JOVIO.
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
                `(frames, height, width, channels)` or `(frames, channels, height, width)`; lists of pictures.
            return_tensors (`"pt"` or `"np"`, *optional*): Kind of the result; NumPy when `None`.
            kwargs: Settings for this call, by the names of the constructor.

        Returns:
            [`BatchFeature`] with `pixel_values_videos`, `(num_videos, frames, channels, height, width)`, 0 beyond
            shorter and smaller videos, and `video_grid_thw`, `(num_videos, 3)`, their numbers of patches; where a patch
            has one frame, the first of these is the number of real frames.

        Raises:
            `ValueError`: As [`JosieImageProcessor.preprocess`].
            `ImportError`: A file is given and PyAV is not installed.
        """
        pixels, options = self._read_videos(videos, kwargs)
        temporal, patch = options["temporal_patch_size"], options["patch_size"]
        # The last patch of a video is filled with its last frame, and not with what follows it in the batch.
        pixels = [torch.cat([video] + [video[-1:]] * (-len(video) % temporal)) for video in pixels]
        grid = [[len(video) // temporal, video.shape[2] // patch, video.shape[3] // patch] for video in pixels]
        data = {"pixel_values_videos": pad_to_batch(pixels).numpy(), "video_grid_thw": np.array(grid)}
        return BatchFeature(data, tensor_type=return_tensors or "np")

    def _read_videos(self, videos: VideoInput, kwargs: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
        """Return the chosen frames of each video, resized and normalised, and the settings of the call."""
        if kwargs.get("num_frames") is not None and kwargs.get("fps") is not None:
            raise ValueError(
                f"`num_frames` and `fps` must not both be given, got {kwargs['num_frames']} and {kwargs['fps']}."
            )
        options = self._options(kwargs)
        if kwargs.get("fps") is not None:
            options["num_frames"] = None
        self._check_options(options)
        items = flatten_videos(videos)
        if not items:
            raise ValueError("`videos` must hold at least one video, got none.")
        pixels = [self._transform(read_video(item, options), options) for item in items]
        return pixels, options

    def fetch_videos(self, video_url_or_urls: VideoInput, sample_indices_fn: Any = None) -> VideoInput:
        """Return `videos` as they are: [`JosieVideoProcessor.preprocess`] reads them."""
        return video_url_or_urls


def flatten_videos(videos: VideoInput) -> list[Any]:
    """Return a flat list of videos from a video, a batch array or lists of them."""
    if is_video(videos):
        return [videos]
    if isinstance(videos, (list, tuple)):
        return [video for item in videos for video in flatten_videos(item)]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return list(videos)
    raise ValueError(
        f"`videos` must be lists of pictures, arrays of 4 or 5 dimensions, or files, got {describe_value(videos)}."
    )


class JovioVideoProcessor(JosieVideoProcessor):
    """Makes what [`JovioModel`] takes of videos: [`JosieVideoProcessor`], by the names of the codec alone.

    A picture in a list is a video of one frame, so `[[picture], "clip.mp4"]` is a batch of both.
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
