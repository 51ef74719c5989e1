"""Images of any form as float pixels `(channels, height, width)`, in [0, 1] unless their own values are asked for.

An image that is much larger than it is needed is first made smaller in its own 8 or 16 bits, by averaging whole blocks,
so that a photograph of 100 megapixels costs what it costs Pillow.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional
from transformers.utils import logging

from .nested_values import require_dense
from .sources import Source, describe_source, is_source, open_source, unwrap_source

logger = logging.get_logger(__name__)

_WHITE, _DEEP_WHITE = 255, 65535  # of 8 and 16 bits
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's greys
# The tag of EXIF that says how an image was held, and from which of its values on it lies on its side.
_ORIENTATION, _TURNED = 0x0112, 5
# Blocks are averaged only as far as the image stays this many times as large as needed: what interpolation makes of it
# then is not to be told from what it makes of the whole.
_GAP = 4
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

# What Pillow raises on damaged files.
IMAGE_ERRORS = (OSError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)

# Images of more pixels are resized in bands of rows, as all of them as floats would take many times their memory.
_LARGE = 1 << 21
_ROWS = 256

Fit = Callable[[int, int], tuple[int, int]]  # height and width that an image has to those it is needed in
Mode = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Resize:
    """A [`Fit`] that also says by which interpolation images become that large.

    Args:
        fit (callable): Gives the height and width that an image of a height and width is needed in.
        mode (`"bilinear"` or `"bicubic"`): Of the interpolation.
    """

    fit: Fit
    mode: Mode

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is needed in."""
        return self.fit(height, width)


def interpolate(pixels: torch.Tensor, size: tuple[int, int], mode: Mode) -> torch.Tensor:
    """Resize images with antialiasing.

    Args:
        pixels (`torch.Tensor`): `(frames, channels, height, width)` in [0, 1].
        size (`tuple[int, int]`): New height and width.
        mode (`"bilinear"` or `"bicubic"`): How values in between are found; the second may leave [0, 1].
    """
    return functional.interpolate(pixels, size=size, mode=mode, antialias=True)


def is_image(value: Any) -> bool:
    """Return whether `value` is one image: PIL, an array or tensor of 2 or 3 dimensions, or a file."""
    value = unwrap_source(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim in (2, 3)
    return isinstance(value, Image.Image) or is_source(value)


def open_image(source: Source, name: str = "images") -> Image.Image:
    """Open an image, decode its first frame and turn it upright.

    Raises:
        `ValueError`: It is no image, or cut short.
    """
    return ImageOps.exif_transpose(_load_image(source, name))


def _load_image(source: Source, name: str) -> Image.Image:
    try:
        with Image.open(open_source(source, name)) as image:
            image.load()
            return image.copy() if image.readonly else image
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"`{name}` must be readable images, got {describe_source(source)}, which is none that Pillow reads."
        ) from error
    except IMAGE_ERRORS as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"`{name}` must be readable images, got {describe_source(source)}: {reason}.") from error


def image_size(image: Any, name: str = "images") -> tuple[int, int]:
    """Return height and width of an image of any form, upright; a file is not decoded.

    Raises:
        `ValueError`: It is no image.
    """
    image = unwrap_source(image)
    if is_source(image):
        try:
            with Image.open(open_source(image, name)) as opened:
                return _upright_size(opened)
        except IMAGE_ERRORS as error:
            raise ValueError(f"`{name}` must be readable images, got {describe_source(image)}: {error}.") from error
    if isinstance(image, Image.Image):
        return _upright_size(image)
    require_dense(image, name)
    height, width = _channels_first(image[None], name).shape[-2:]
    return height, width


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if image.format == "TIFF":  # which Pillow turns by itself, and measures so before it is decoded
        return height, width
    return (width, height) if image.getexif().get(_ORIENTATION, 1) >= _TURNED else (height, width)


def image_to_pixels(
    image: Any, num_channels: int = 3, name: str = "images", fit: Fit | None = None, do_rescale: bool = True
) -> torch.Tensor:
    """Return an image as float pixels.

    Args:
        image: PIL, an array or tensor (see [`array_to_pixels`]), a file, or a dict with `bytes` or `path`, as in
            datasets. Transparent parts become white. Integers of more than 8 bits, as of Pillow's mode `I`, are taken
            as 16 bits.
        num_channels (`1` or `3`): Grey or colour.
        name (`str`): Argument that the caller knows it by, for messages.
        fit (callable, *optional*): Gives the height and width that an image of a height and width is needed in: where
            that is much less, the result is some times as large as that. The image's own size when `None`.
        do_rescale (`bool`): As of [`array_to_pixels`]; a file or PIL image has values from 0 to 255, but for floats.

    Returns:
        `(num_channels, height, width)`, float32.

    Raises:
        `ValueError`: No pixels, values that are not finite or out of range, or an unreadable file.
    """
    image = unwrap_source(image)
    if is_source(image):
        image = _load_image(image, name)
    if not isinstance(image, Image.Image):
        if getattr(image, "ndim", None) not in (2, 3):
            raise ValueError(
                f"`{name}` must be images, arrays of 2 or 3 dimensions, or files, got a {type(image).__name__}."
            )
        require_dense(image, name)
        return array_to_pixels(image[None], num_channels, name, fit, do_rescale)[0]
    if min(image.size) < 1:
        raise ValueError(f"`{name}` must have at least one pixel, got {image.width} x {image.height}.")
    keeps_floats = image.mode == "F" and not do_rescale
    fit = None if keeps_floats else fit
    try:
        _check_depth(image, name)
        factor = shrink_factor(_upright_size(image), fit)
        if isinstance(fit, Resize) and image.width * image.height > _LARGE * factor**2:
            pixels = _resize_large(image, num_channels, name, fit, factor)
            return pixels if do_rescale else pixels * _WHITE
        array = _to_array(image, factor)
    except (*IMAGE_ERRORS, ValueError) as error:
        raise ValueError(f"`{name}` must be readable images, got one that is not: {error}.") from error
    pixels = array_to_pixels(array[None], num_channels, name, do_rescale=not keeps_floats)[0]
    return pixels if do_rescale or keeps_floats else pixels * _WHITE


def _check_depth(image: Image.Image, name: str) -> None:
    """Raise a `ValueError` if integers of 32 bits, Pillow's mode `I`, are beyond 16, and warn if they look like 8."""
    if image.mode != "I":
        return
    extremes: Any = image.getextrema()
    low, high = extremes
    if low < 0 or high > _DEEP_WHITE:
        raise ValueError(f"integers of 32 bits must be in [0, {_DEEP_WHITE}], got values from {low} to {high}")
    if 0 < high <= _WHITE:
        logger.warning(f"`{name}` of mode 'I' are as dark as values of 8 bits would be; they are taken as 16 bits.")


def _to_array(image: Image.Image, factor: int) -> np.ndarray:
    """Return an image upright, 1 / `factor` as large: uint8 `(height, width, channels)` or float `(height, width)`."""
    is_deep = image.mode.startswith("I")  # 16 bits, which Pillow would clip to 8
    if is_deep:
        image = image if image.mode == "I" or factor == 1 else image.convert("I")
    elif image.mode != "F":
        has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
        mode = "RGBA" if has_alpha else "L" if image.mode in ("1", "L") else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    image = ImageOps.exif_transpose(image.reduce(factor) if factor > 1 else image)
    if is_deep:
        return np.asarray(image, dtype=np.float32) / _DEEP_WHITE
    return np.array(image)


def _resize_large(image: Image.Image, num_channels: int, name: str, resize: Resize, factor: int) -> torch.Tensor:
    """Return a large image in the size that it is needed in, with no more than some of its rows as floats at once.

    Interpolation goes along one axis after the other, so that rows can be made narrow band by band.
    """
    height, width = resize(*_upright_size(image))
    turn = image.getexif().get(_ORIENTATION, 1) if image.format != "TIFF" else 1
    if turn >= _TURNED:
        height, width = width, height
    image = image.reduce(factor) if factor > 1 and image.mode in ("L", "RGB", "RGBA") else image
    bands = []
    for top in range(0, image.height, _ROWS):
        band = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        band.info = {name: value for name, value in image.info.items() if name == "transparency"}
        pixels = array_to_pixels(_to_array(band, 1)[None], num_channels, name)
        bands.append(interpolate(pixels, (pixels.shape[2], width), resize.mode))
    narrow = interpolate(torch.cat(bands, dim=2), (height, width), resize.mode)[0].clamp(0, 1)
    return turn_upright(narrow, turn)


def turn_upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """Turn `(channels, height, width)` as the orientation of EXIF says (TIFF 6.0, section 8)."""
    if orientation >= _TURNED:
        pixels = pixels.mT
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels.flip([axis for axis, is_flipped in ((1, vertical), (2, horizontal)) if is_flipped]).contiguous()


def shrink_factor(size: tuple[int, int], fit: Fit | None) -> int:
    """Return how many pixels of a side may become one before an image of `size` is resized to what `fit` says."""
    if fit is None:
        return 1
    return max(min(side // (needed * _GAP) for side, needed in zip(size, fit(*size), strict=True)), 1)


def shrink_frame(frame: np.ndarray, fit: Fit | None) -> np.ndarray:
    """Return a frame, uint8 `(height, width, channels)`, with as many pixels as it takes to resize it well."""
    factor = shrink_factor((frame.shape[0], frame.shape[1]), fit)
    return frame if factor == 1 else np.asarray(Image.fromarray(frame).reduce(factor))


def array_to_pixels(
    frames: np.ndarray | torch.Tensor,
    num_channels: int = 3,
    name: str = "images",
    fit: Fit | None = None,
    do_rescale: bool = True,
) -> torch.Tensor:
    """Return images of one size as float pixels.

    Args:
        frames (`np.ndarray` or `torch.Tensor`): `(frames, height, width)`, or with 1, 3 or 4 channels last or second;
            uint8, or floating point in [0, 1]. Where both places are possible, arrays have channels last and tensors
            second. A fourth channel is opacity, over white.
        num_channels (`1` or `3`): Grey or colour.
        name (`str`): Argument that the caller knows it by, for messages.
        fit (callable, *optional*): As of [`image_to_pixels`].
        do_rescale (`bool`): Bring uint8 to [0, 1]. Otherwise values stay as they are, and floats without opacity may
            have any.

    Returns:
        `(frames, num_channels, height, width)`, float32.

    Raises:
        `ValueError`: Another shape or type, no pixels, or values that are not finite or out of range.
    """
    pixels = _channels_first(frames, name)
    factor = shrink_factor((pixels.shape[-2], pixels.shape[-1]), fit)
    if pixels.dtype == torch.uint8:
        if factor > 1:
            pixels = torch.stack([_reduce(frame, factor) for frame in pixels])
        pixels = _to_colours(pixels.float() / _WHITE, num_channels)
        return pixels if do_rescale else pixels * _WHITE
    if not pixels.is_floating_point():
        raise ValueError(f"`{name}` must be uint8 or floating point, got {str(pixels.dtype).removeprefix('torch.')}.")
    pixels = pixels.float()
    low, high = (float(bound) for bound in pixels.aminmax())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    if (low < 0 or high > 1) and (do_rescale or pixels.shape[1] == 4):
        raise ValueError(f"`{name}` of floating point must be in [0, 1], got values from {low:g} to {high:g}.")
    pixels = _to_colours(pixels, num_channels)
    if factor > 1:
        pixels = functional.avg_pool2d(pixels, factor, ceil_mode=True, count_include_pad=False)
    return pixels


def _channels_first(frames: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """Return images of one size as `(frames, channels, height, width)`, of their own type."""
    shape = tuple(frames.shape)
    prefer_last = not isinstance(frames, torch.Tensor)
    pixels = frames.detach().cpu() if isinstance(frames, torch.Tensor) else _to_tensor(frames, name)
    if 0 in shape:
        raise ValueError(f"`{name}` must have at least one pixel, got shape {shape[1:]}.")
    if pixels.ndim == 3:
        return pixels[:, None]
    last, second = (pixels.ndim == 4 and pixels.shape[axis] in (1, 3, 4) for axis in (-1, 1))
    if not (last or second):
        raise ValueError(f"`{name}` must have 1, 3 or 4 channels, first or last, got shape {shape[1:]}.")
    return pixels.movedim(-1, 1) if last and (prefer_last or not second) else pixels


def _to_tensor(array: np.ndarray, name: str) -> torch.Tensor:
    if array.dtype.kind == "f" and array.dtype not in (np.float16, np.float32):  # double, or in the other byte order
        array = array.astype(np.float32)
    try:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except TypeError as error:
        raise ValueError(f"`{name}` must be uint8 or floating point, got {array.dtype}.") from error


def _reduce(frame: torch.Tensor, factor: int) -> torch.Tensor:
    """Return a frame, uint8 `(channels, height, width)`, of averages of blocks of `factor` by `factor` pixels."""
    array = frame.movedim(0, -1).contiguous().numpy()
    reduced = np.asarray(Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).reduce(factor))
    return torch.from_numpy(reduced.reshape(*reduced.shape[:2], -1).copy()).movedim(-1, 0)


def _to_colours(pixels: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Blend opacity over white and convert between grey and colour."""
    if pixels.shape[1] == 4:
        opacity = pixels[:, 3:]
        pixels = pixels[:, :3] * opacity + (1 - opacity)
    if num_channels == 1 and pixels.shape[1] == 3:
        return (pixels * pixels.new_tensor(_LUMA).reshape(3, 1, 1)).sum(dim=1, keepdim=True)
    return pixels.expand(-1, num_channels, -1, -1) if pixels.shape[1] == 1 else pixels
