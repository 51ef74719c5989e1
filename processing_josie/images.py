"""Pictures of any form as float pixels `(channels, height, width)` in [0, 1]."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .sources import Source, describe_source, is_source, open_source

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's greys


def is_image(value: Any) -> bool:
    """Return whether `value` is one picture: PIL, an array or tensor of 2 or 3 dimensions, or a file."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim in (2, 3)
    return isinstance(value, Image.Image) or is_source(value)


def open_image(source: Source, name: str = "images") -> Image.Image:
    """Open a picture and decode its first frame.

    Raises:
        `ValueError`: It is no picture, or cut short.
    """
    try:
        with Image.open(open_source(source, name)) as picture:
            return ImageOps.exif_transpose(picture)
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"`{name}` must be readable pictures, got {describe_source(source)}, which is none."
        ) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"`{name}` must be readable pictures, got {describe_source(source)}: {reason}.") from error


def image_to_pixels(picture: Any, num_channels: int = 3, name: str = "images") -> torch.Tensor:
    """Return a picture as float pixels.

    Args:
        picture: PIL, an array or tensor (see [`array_to_pixels`]), or a file. Transparent parts become white.
        num_channels (`1` or `3`): Grey or colour.
        name (`str`): Argument that the caller knows it by, for messages.

    Returns:
        `(num_channels, height, width)`, float32 in [0, 1].

    Raises:
        `ValueError`: No pixels, values that are not finite or out of range, or an unreadable file.
    """
    if is_source(picture):
        picture = open_image(picture, name)
    if not isinstance(picture, Image.Image):
        if getattr(picture, "ndim", None) not in (2, 3):
            raise ValueError(
                f"`{name}` must be pictures, arrays of 2 or 3 dimensions, or files, got a {type(picture).__name__}."
            )
        return array_to_pixels(picture[None], num_channels, name)[0]
    if min(picture.size) < 1:
        raise ValueError(f"`{name}` must have at least one pixel, got {picture.width} x {picture.height}.")
    try:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
            array = np.asarray(picture, dtype=np.float32) / 65535
        elif picture.mode == "F":
            array = np.asarray(picture)
        else:
            has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
            array = np.array(picture.convert("RGBA" if has_alpha else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"`{name}` must be readable pictures, got one that is not: {error}.") from error
    return array_to_pixels(array[None], num_channels, name)[0]


def array_to_pixels(frames: np.ndarray | torch.Tensor, num_channels: int = 3, name: str = "images") -> torch.Tensor:
    """Return pictures of one size as float pixels.

    Args:
        frames (`np.ndarray` or `torch.Tensor`): `(frames, height, width)`, or with 1, 3 or 4 channels last or second;
            uint8, or floating point in [0, 1]. Where both places are possible, arrays have channels last and tensors
            second. A fourth channel is opacity, over white.
        num_channels (`1` or `3`): Grey or colour.
        name (`str`): Argument that the caller knows it by, for messages.

    Returns:
        `(frames, num_channels, height, width)`, float32 in [0, 1].

    Raises:
        `ValueError`: Another shape or type, no pixels, or values that are not finite or out of range.
    """
    shape = tuple(frames.shape)
    prefer_last = not isinstance(frames, torch.Tensor)
    pixels = frames.detach().cpu() if isinstance(frames, torch.Tensor) else _to_tensor(frames, name)
    if 0 in shape:
        raise ValueError(f"`{name}` must have at least one pixel, got shape {shape[1:]}.")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    else:
        last, second = (pixels.ndim == 4 and pixels.shape[axis] in (1, 3, 4) for axis in (-1, 1))
        if not (last or second):
            raise ValueError(f"`{name}` must have 1, 3 or 4 channels, first or last, got shape {shape[1:]}.")
        if last and (prefer_last or not second):
            pixels = pixels.movedim(-1, 1)
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    elif not pixels.is_floating_point():
        raise ValueError(f"`{name}` must be uint8 or floating point, got {str(pixels.dtype).removeprefix('torch.')}.")
    pixels = pixels.float()
    if not torch.isfinite(pixels).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(
            f"`{name}` of floating point must be in [0, 1], got values from {pixels.min():g} to {pixels.max():g}."
        )
    return _to_colours(pixels, num_channels)


def _to_tensor(array: np.ndarray, name: str) -> torch.Tensor:
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        raise ValueError(f"`{name}` must be uint8 or floating point, got {array.dtype}.") from error


def _to_colours(pixels: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Blend opacity over white and convert between grey and colour."""
    if pixels.shape[1] == 4:
        opacity = pixels[:, 3:]
        pixels = pixels[:, :3] * opacity + (1 - opacity)
    if num_channels == 1 and pixels.shape[1] == 3:
        return (pixels * pixels.new_tensor(_LUMA).reshape(3, 1, 1)).sum(dim=1, keepdim=True)
    return pixels.expand(-1, num_channels, -1, -1) if pixels.shape[1] == 1 else pixels
