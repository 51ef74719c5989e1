"""Image and video files to JOVIO's codes, and back to PNG and MP4."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.modeling_utils import PreTrainedModel

from ..configuration_josie import JovioConfig
from ..conversion.files import new_file
from ..processing_josie import JosieImageProcessor, JosieVideoProcessor
from ..processing_josie.images import open_image
from ..processing_josie.video_files import probe_video
from .codec_files import Codes, codec_metadata
from .media import find_modalities

_FALLBACK_FPS = 10.0  # of animations that do not say how fast they are


@dataclass
class Frames:
    """An image or a video as JOVIO reads it.

    Args:
        pixel_values (`torch.Tensor`): `(1, frames, channels, height, width)`, in [0, 1].
        source_size (`tuple[int, int]`): Height and width of the file.
        source_frames (`int`): Frames of the file; of very long videos not all are taken.
        fps (`float`, *optional*): Of the frames taken; `None` for an image.
    """

    pixel_values: torch.Tensor
    source_size: tuple[int, int]
    source_frames: int = 1
    fps: float | None = None


def read_frames(path: Path, config: JovioConfig, max_patches: int) -> Frames:
    """Read an image or a video, and resize it to the nearest multiples of the patch.

    Args:
        path (`Path`): The file.
        config ([`JovioConfig`]): Of the codec.
        max_patches (`int`): Most patches of one frame; larger ones are made smaller.

    Raises:
        `ValueError`: It is neither, or is damaged.
        `ImportError`: It is a video and PyAV is not installed.
    """
    area = config.patch_size**2
    options: dict[str, Any] = {
        "size": {"min_pixels": area, "max_pixels": max_patches * area},
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "do_normalize": False,
    }
    if find_modalities(path)[:1] == ("image",):
        image = open_image(path)
        pixels = JosieImageProcessor(**options)(image, return_tensors="pt")["pixel_values"]
        return Frames(pixels[:, None], (image.height, image.width))
    probe = probe_video(path)
    processor = JosieVideoProcessor(
        **options, temporal_patch_size=1, max_frames=config.max_frames, do_sample_frames=False
    )
    pixels = processor(path, return_tensors="pt")["pixel_values_videos"]
    fps = (probe.rate or _FALLBACK_FPS) * pixels.shape[1] / probe.num_frames
    return Frames(pixels, (probe.height, probe.width), probe.num_frames, fps)


def encode_frames(codec: PreTrainedModel, frames: Frames, num_quantizers: int | None = None) -> Codes:
    """Turn an image or a video into codes.

    Args:
        codec ([`JovioModel`]): The codec.
        frames ([`Frames`]): What [`read_frames`] returned.
        num_quantizers (`int`, *optional*): Use only the first ones.

    Raises:
        `ValueError`: There are not that many quantizers.
    """
    pixels = frames.pixel_values.to(codec.device, codec.dtype)
    encoded = codec.encode(pixels, num_quantizers=num_quantizers)  # type: ignore[operator]
    return Codes(
        modality="image" if frames.fps is None else "video",
        codes=encoded.vision_codes,
        grid=encoded.grid_thw[0].tolist(),
        num_frames=pixels.shape[1],
        fps=frames.fps,
        **codec_metadata(codec.config),
    )


@torch.no_grad()
def decode_frames(codec: PreTrainedModel, stored: Codes) -> torch.Tensor:
    """Return the pixels that codes stand for, `(frames, channels, height, width)` in [0, 1].

    Raises:
        `ValueError`: The codes do not fit the codec.
    """
    stored.require_fit(codec.config)
    grid = torch.tensor([stored.grid], device=codec.device)
    decoded = codec.decode(stored.codes.to(codec.device), grid, stored.num_frames)  # type: ignore[operator]
    return decoded.pixel_values[0].float().cpu()


def write_frames(path: Path, pixels: torch.Tensor, fps: float | None) -> None:
    """Write `(frames, channels, height, width)` as PNG, or with `fps` as MP4 (H.264).

    The file appears under its name only when it is complete.

    Args:
        path (`Path`): The file.
        pixels (`torch.Tensor`): `(frames, channels, height, width)` in [0, 1], with one or three channels.
        fps (`float`, *optional*): Frames a second of a video; `None` writes the first frame as an image.

    Raises:
        `ImportError`: It is a video and PyAV is not installed.
    """
    colours = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
    frames = colours.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    with new_file(path) as unfinished:
        if fps is None:
            Image.fromarray(frames[0]).save(unfinished, format="PNG")
        else:
            _write_video(unfinished, frames, fps)


def require_av() -> Any:
    """Return PyAV.

    Raises:
        `ImportError`: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Video files need PyAV: `pip install josie[video]`.") from error
    return av


def _write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    av = require_av()
    _, height, width, _ = frames.shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16"})
        stream.height, stream.width = height, width
        # Colour at half the resolution, which players expect, needs even sides.
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
