"""Images and videos as arrays: read, shrunk, on white."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from josie.processing_josie.images import image_to_pixels, open_image

LONGEST_SIDE = 512  # pixels that are kept of an image
CLIP_FRAMES, CLIP_STEP = 8, 2  # frames of a clip, and every so many of the video's


def shrink(frame: Image.Image, longest_side: int = LONGEST_SIDE) -> Image.Image:
    """Return `frame` with no side longer than `longest_side`."""
    scale = longest_side / max(frame.size)
    if scale >= 1:
        return frame
    return frame.resize([max(round(side * scale), 1) for side in frame.size], Image.Resampling.LANCZOS)


def read_image(path: Path) -> np.ndarray:
    """Return a file as `(1, height, width, 3)` in uint8, transparent parts white.

    Raises:
        `ValueError`: It cannot be decoded.
    """
    pixels = image_to_pixels(open_image(path))
    frame = Image.fromarray(pixels.mul(255).round().to(torch.uint8).movedim(0, -1).contiguous().numpy())
    return np.asarray(shrink(frame))[None]


def read_clips(path: Path) -> list[np.ndarray]:
    """Return clips, `(CLIP_FRAMES, height, width, 3)` in uint8, of a video from its start to its end.

    Raises:
        `ValueError`: It cannot be decoded.
    """
    import av

    frames = []
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % CLIP_STEP == 0:
                    frames.append(np.asarray(shrink(frame.to_image())))
    except av.FFmpegError as error:
        raise ValueError(f"{str(path)!r} cannot be decoded: {error}.") from error
    starts = range(0, len(frames) - CLIP_FRAMES + 1, CLIP_FRAMES)
    return [np.stack(frames[start : start + CLIP_FRAMES]) for start in starts]
