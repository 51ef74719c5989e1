"""Image processors: images of any accepted form to pixels of the size that a vision tower or JOVIO reads.

Everything is done in torch on float pixels in [0, 1], with antialiased interpolation: torchvision is not needed, and a
video's frame is treated exactly as an image is.
"""

import math
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import SizeDict
from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from ..configuration_josie import (
    JosieConfig,
    JosieThinkerConfig,
    JosieVisionEncoderConfig,
    JovioConfig,
    is_codec,
    tower_image_size,
)
from .images import Fit, Resize, image_to_pixels, interpolate, is_image
from .sources import split_options
from .vision_settings import check_normalization, check_settings, is_integer, require_obeyed

ImageInput = Any  # an image in any form that `image_to_pixels` takes, or a list of images, nested or not

_MODES: dict[int, Literal["bilinear", "bicubic"]] = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}
# What the towers of transformers were trained with; ours sees pixels as they are.
_CLIP = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
_IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
_HALF = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)
_NORMALIZATION = {
    **dict.fromkeys(("clip_vision_model", "chinese_clip_vision_model", "metaclip_2_vision_model"), _CLIP),
    **dict.fromkeys(("aimv2_vision_model", "mlcd_vision_model"), _CLIP),
    **dict.fromkeys(("siglip_vision_model", "siglip2_vision_model", "smolvlm_vision"), _HALF),
    **dict.fromkeys(("vit", "data2vec-vision"), _HALF),
    **dict.fromkeys(("deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_msn"), _IMAGENET),
}
# Settings of other processors of transformers, with the values that say what is done here anyway.
_ALWAYS = {
    "do_convert_rgb": True,
    "do_pad": True,
    "do_center_crop": False,
    "data_format": "channels_first",
    "default_to_square": True,
    "return_metadata": False,
}
# Other names in saved settings, which say whose they are.
_BOOKKEEPING = ("image_processor_type", "video_processor_type", "feature_extractor_type", "processor_class", "auto_map")
_AREAS = ("min_pixels", "max_pixels")


class JosieImagesKwargs(TypedDict, total=False):
    """Settings of images, by the names of [`JosieImageProcessor`]."""

    do_resize: bool | None
    size: Any
    resample: Any
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | list[float] | tuple[float, ...] | None
    image_std: float | list[float] | tuple[float, ...] | None
    num_channels: int | None
    patch_size: int | None


def fit_size(height: int, width: int, patch_size: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the multiples of `patch_size` nearest to a size, with an area in `[min_pixels, max_pixels]`.

    The aspect ratio is kept as well as patches and, for very long images, the area allow.

    Args:
        height, width (`int`): The size, in pixels.
        patch_size (`int`): Side of a patch, in pixels.
        min_pixels, max_pixels (`int`): Range of the area.
    """
    scale = 1.0
    if (area := _round_up(height, patch_size, round) * _round_up(width, patch_size, round)) > max_pixels:
        scale = math.sqrt(max_pixels / (height * width))
    elif area < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
    rounding = math.floor if area > max_pixels else math.ceil if area < min_pixels else round
    sides = [_round_up(side * scale, patch_size, rounding) for side in (height, width)]
    longer = int(sides[1] > sides[0])
    sides[longer] = min(sides[longer], max(max_pixels // (sides[1 - longer] * patch_size), 1) * patch_size)
    return sides[0], sides[1]


def _round_up(side: float, multiple: int, rounding: Any) -> int:
    return max(rounding(side / multiple), 1) * multiple


def front_end_options(vision_config: PreTrainedConfig, max_patches: int) -> dict[str, Any]:
    """Return size, patches and normalisation that a Thinker's `vision_config` asks for."""
    channels, patch = getattr(vision_config, "num_channels", 3), vision_config.patch_size
    if is_codec(vision_config):
        side = max(math.isqrt(max_patches) // 2, 1)
        size = {"min_pixels": side**2 * patch**2, "max_pixels": max(max_patches, 1) * patch**2}
        return {"num_channels": channels, "patch_size": patch, "size": size, "do_normalize": False}
    size = dict.fromkeys(("height", "width"), tower_image_size(vision_config))
    options = {"num_channels": channels, "patch_size": patch, "size": size, "do_normalize": False}
    if vision_config.model_type in _NORMALIZATION:
        mean, std = _NORMALIZATION[vision_config.model_type]
        options |= {"do_normalize": True, "image_mean": list(mean), "image_std": list(std)}
    return options


class PixelProcessor(BaseImageProcessor):
    """The common part of processors of images and videos: settings, sizes, interpolation, normalisation."""

    do_resize = True
    size = {"height": 224, "width": 224}
    resample = Image.Resampling.BICUBIC
    do_rescale = True
    do_normalize = False
    num_channels = 3
    patch_size = 16

    def __init__(self, **kwargs: Any):
        kwargs = self._known_settings(kwargs)
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)
        for name in ("crop_size", "pad_size"):  # which `_set_attributes` adds
            delattr(self, name)
        self._check_options(self.get_options())

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the processor of saved settings, with others in their place; arguments as in transformers.

        Raises:
            `ValueError`: A setting that there is not.
        """
        if not kwargs.get("return_unused_kwargs", False):
            return cls(**(image_processor_dict | {name: value for name, value in kwargs.items() if name[0] != "_"}))
        return super().from_dict(image_processor_dict, **kwargs)

    @property
    def backend(self) -> str:
        """`"torch"`, in transformers' sense of a backend."""
        return "torch"

    @classmethod
    def _known_settings(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return settings without those that say what is done anyway.

        Raises:
            `ValueError`: One that there is not, or that asks for something else.
        """
        names = cls.valid_kwargs.__annotations__
        known = {}
        for name, value in kwargs.items():
            if name in names or name in _BOOKKEEPING:
                known[name] = value
            elif name in _ALWAYS:
                if value not in (None, _ALWAYS[name]):
                    raise ValueError(f"`{name}` must be {_ALWAYS[name]!r}, got {value!r}.")
            elif value is not None:
                raise ValueError(f"`{name}` must be one of {sorted(names)}, got {name!r}.")
        return known

    def get_options(self, kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return this processor's settings with those of one call on top.

        Raises:
            `ValueError`: A setting that there is not.
        """
        options = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        options |= {name: value for name, value in self._known_settings(kwargs or {}).items() if value is not None}
        return self._standardize_kwargs(**options)

    def item_options(self, own: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings for an item that has some of its own."""
        return self._item_options(self.get_options(), own) if own else self.get_options()

    def _item_options(self, options: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """Return the settings for one item that has some of its own.

        Raises:
            `ValueError`: A setting that there is not, one that would not be looked at, or an area where all images
                have one size.
        """
        own = {name: value for name, value in own.items() if value is not None}
        areas = {name: own.pop(name) for name in _AREAS if name in own}
        if areas:
            size: SizeDict = options["size"]
            if None in (size.min_pixels, size.max_pixels):
                raise ValueError(
                    f"`{next(iter(areas))}` must be None, as all images of this model have one size, got {areas}."
                )
            options = options | {"size": SizeDict(**({name: getattr(size, name) for name in _AREAS} | areas))}
        options = options | self._known_settings(own)
        self._check_options(options)
        require_obeyed(own | areas, options)
        return options

    def _check_options(self, options: dict[str, Any]) -> None:
        size: SizeDict = options["size"]
        if not all(is_integer(side) for side in dict(size).values() if side is not None):
            raise ValueError(f"`size` must have integers, got {dict(size)}.")
        fixed = [side for side in (size.height, size.width) if side is not None]
        bounds = [area for area in (size.min_pixels, size.max_pixels) if area is not None]
        if len(fixed) < 2 and len(bounds) < 2:
            raise ValueError(
                f"`size` must have 'height' and 'width', or 'min_pixels' and 'max_pixels', got {dict(size)}."
            )
        values = fixed if len(fixed) == 2 else bounds
        if min(values) < 1 or (values is bounds and bounds[0] > bounds[1]):
            raise ValueError(f"`size` must have positive numbers in order, got {dict(size)}.")
        if options["resample"] not in list(_MODES):
            raise ValueError(f"`resample` must be bilinear (2) or bicubic (3), got {options['resample']!r}.")
        check_settings(options)
        check_normalization(options)

    def get_fit(self, options: dict[str, Any]) -> Fit | None:
        """Return what gives the height and width that an image is resized to; `None` where it keeps its own."""
        if not options["do_resize"]:
            return None
        size, patch = options["size"], options["patch_size"]
        mode = _MODES[options["resample"]]
        if size.height is not None and size.width is not None:
            return Resize(lambda height, width: (size.height, size.width), mode)
        fit = partial(fit_size, patch_size=patch, min_pixels=size.min_pixels, max_pixels=size.max_pixels)
        return Resize(fit, mode)

    def _transform(self, frames: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """Resize and normalise `(frames, channels, height, width)`."""
        patch, fit = options["patch_size"], self.get_fit(options)
        if fit is None and any(side % patch for side in frames.shape[-2:]):
            raise ValueError(
                f"Sides must be multiples of `patch_size` ({patch}) when `do_resize` is off, "
                f"got {tuple(frames.shape[-2:])}."
            )
        height, width = frames.shape[-2:]
        target = (height, width) if fit is None else fit(height, width)
        if (height, width) != target:
            mode = _MODES[options["resample"]]
            bounds = (0.0, 1.0) if options["do_rescale"] else _find_bounds(frames)
            frames = interpolate(frames, target, mode).clamp(*bounds)
        if options["do_rescale"] and not math.isclose(options["rescale_factor"], 1 / 255):
            frames = frames * (255 * options["rescale_factor"])
        if options["do_normalize"]:
            mean, std = (frames.new_tensor(options[name]).reshape(-1, 1, 1) for name in ("image_mean", "image_std"))
            frames = (frames - mean) / std
        return frames


def _find_bounds(frames: torch.Tensor) -> tuple[float, float]:
    """Return the range that interpolation must not leave: [0, 1] or [0, 255], or as far as values reach beyond."""
    low, high = (float(bound) for bound in frames.aminmax())
    return min(low, 0.0), 1.0 if high <= 1 else max(high, 255.0)


class JosieImageProcessor(PixelProcessor):
    """Processor that makes `pixel_values` of images.

    Args:
        do_resize (`bool`): Resize; otherwise sizes must suit the front end as they are.
        size (`dict`): `{"height": ..., "width": ...}`, or `{"min_pixels": ..., "max_pixels": ...}` for the multiples of
            the patch that are nearest to the image's own size.
        resample (`int`): Pillow's number for bicubic (3) or bilinear (2) interpolation.
        do_rescale (`bool`), rescale_factor (`float`): From 0...255 to 0...1; floats in 0...1 are as if they came from
            there. Without, values stay as they are, and floats may have any.
        do_normalize (`bool`), image_mean, image_std (`list[float]`): Subtract and divide, for each channel.
        num_channels (`1` or `3`): Grey or colour.
        patch_size (`int`): Height and width of a patch, in pixels.

    Raises:
        `ValueError`: A number out of range, or another setting.
    """

    valid_kwargs: Any = JosieImagesKwargs
    model_input_names = ["pixel_values", "image_grid_thw"]

    @classmethod
    def from_config(cls, vision_config: PreTrainedConfig, max_patches: int = 256) -> "JosieImageProcessor":
        """Return the processor for a Thinker's `vision_config`.

        Args:
            vision_config: A tower, whose images have one size, or JOVIO.
            max_patches (`int`): With JOVIO, most patches of one image.
        """
        return cls(**front_end_options(vision_config, max_patches))

    def preprocess(
        self, images: ImageInput, return_tensors: Literal["pt", "np"] | None = "pt", **kwargs
    ) -> BatchFeature:
        """Turn images into model inputs.

        Args:
            images: An image or a list of images, nested or not: PIL, arrays or tensors with channels on either side
                (integers of 8 bits, or floats in [0, 1], or without `do_rescale` any), paths, URLs, bytes, open files,
                dicts with `bytes` or `path`.
            return_tensors (`"pt"` or `"np"`, *optional*): Form of the result; NumPy when `None`.
            kwargs: Settings for this call, by the names of the constructor.

        Returns:
            [`BatchFeature`] with `pixel_values`, `(num_images, channels, height, width)`, 0 beyond smaller images,
            and `image_grid_thw`, `(num_images, 3)`, their numbers of patches.

        Raises:
            `ValueError`: No image, no pixels, values that are not finite or out of range, an unreadable file, or a
                setting that there is not or that would not be looked at.
        """
        options = self.get_options(kwargs)
        self._check_options(options)
        require_obeyed(kwargs, options)
        items = flatten_images(images)
        if not items:
            raise ValueError("`images` must hold at least one image, got none.")
        pixels = [self._read_image(*split_options(item), options) for item in items]
        patch = options["patch_size"]
        grid = [[1, image.shape[1] // patch, image.shape[2] // patch] for image in pixels]
        data = {"pixel_values": pad_to_batch(pixels).numpy(), "image_grid_thw": np.array(grid)}
        return BatchFeature(data, tensor_type=return_tensors or "np")

    def _read_image(self, image: Any, own: dict[str, Any], options: dict[str, Any]) -> torch.Tensor:
        options = self._item_options(options, own) if own else options
        pixels = image_to_pixels(
            image, options["num_channels"], fit=self.get_fit(options), do_rescale=options["do_rescale"]
        )
        return self._transform(pixels[None], options)[0]

    def fetch_images(self, image_url_or_urls: ImageInput) -> ImageInput:
        """Return `images` as they are: [`JosieImageProcessor.preprocess`] reads them."""
        return image_url_or_urls


def pad_to_batch(items: list[torch.Tensor]) -> torch.Tensor:
    """Return items of any sizes in one batch, 0 past the end of each axis."""
    shape = [max(sizes) for sizes in zip(*(item.shape for item in items), strict=True)]
    batch = items[0].new_zeros(len(items), *shape)
    for row, item in zip(batch, items, strict=True):
        row[tuple(slice(size) for size in item.shape)] = item
    return batch


def flatten_images(images: ImageInput) -> list[Any]:
    """Return a flat list of images from an image, a batch array or lists of them."""
    if is_image(split_options(images)[0]):
        return [images]
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in flatten_images(item)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    raise ValueError(f"`images` must be images, arrays of 2 to 4 dimensions, or files, got {describe_value(images)}.")


def describe_value(value: Any) -> str:
    """Return the type of a value, and its shape if it has one, for messages."""
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


class JovioImageProcessor(JosieImageProcessor):
    """Processor of what [`JovioModel`] takes of images: [`JosieImageProcessor`], by the names of the codec alone."""

    model_input_names = ["pixel_values", "grid_thw"]

    def preprocess(
        self, images: ImageInput, return_tensors: Literal["pt", "np"] | None = "pt", **kwargs
    ) -> BatchFeature:
        """Turn images into the codec's inputs. Arguments and errors as in [`JosieImageProcessor.preprocess`].

        Returns:
            [`BatchFeature`] with `pixel_values`, `(num_images, channels, height, width)`, 0 beyond smaller images,
            and `grid_thw`, `(num_images, 3)`, their numbers of patches.
        """
        features = super().preprocess(images, return_tensors, **kwargs)
        return BatchFeature({"pixel_values": features["pixel_values"], "grid_thw": features["image_grid_thw"]})


for _config in (JosieConfig, JosieThinkerConfig, JosieVisionEncoderConfig):
    AutoImageProcessor.register(
        _config,
        image_processor_classes={"pil": JosieImageProcessor, "torchvision": JosieImageProcessor},
        exist_ok=True,
    )
AutoImageProcessor.register(
    JovioConfig,
    image_processor_classes={"pil": JovioImageProcessor, "torchvision": JovioImageProcessor},
    exist_ok=True,
)
