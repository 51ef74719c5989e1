"""Settings of images and videos: each of a form that can be obeyed, and none given that another one switches off."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from .nested_values import to_list

_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_sample_frames")
_COUNTS = ("patch_size", "temporal_patch_size", "max_frames", "num_frames")
_POSITIVE = ("rescale_factor", "fps")
# Settings that are not looked at where a switch is off.
_SWITCH_OF = {
    **dict.fromkeys(("size", "resample", "min_pixels", "max_pixels"), "do_resize"),
    "rescale_factor": "do_rescale",
    **dict.fromkeys(("image_mean", "image_std"), "do_normalize"),
    **dict.fromkeys(("fps", "num_frames"), "do_sample_frames"),
}


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer, also of NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number, also of NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_settings(options: Mapping[str, Any]) -> None:
    """Refuse settings of another form.

    Args:
        options (`dict`): By the names of [`JosieImageProcessor`] and [`JosieVideoProcessor`]; those that are `None`
            say nothing.

    Raises:
        `ValueError`: There is one.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in _SWITCHES:
        if not isinstance(given.get(name, True), bool):
            raise ValueError(f"`{name}` must be True or False, got {given[name]!r}.")
    for name in _COUNTS:
        if name in given and not (is_integer(given[name]) and given[name] >= 1):
            raise ValueError(f"`{name}` must be an integer of at least 1, got {given[name]!r}.")
    for name in _POSITIVE:
        if name in given and not (is_finite(given[name]) and given[name] > 0):
            raise ValueError(f"`{name}` must be a finite number greater than 0, got {given[name]!r}.")
    num_channels = given.get("num_channels", 3)
    if not is_integer(num_channels) or num_channels not in (1, 3):
        raise ValueError(f"`num_channels` must be 1 or 3, got {num_channels!r}.")


def check_normalization(options: Mapping[str, Any]) -> None:
    """Refuse a mean or deviation that images cannot be normalised with, where they are.

    Args:
        options (`dict`): All settings of a processor.

    Raises:
        `ValueError`: There is one, or none.
    """
    for name in ("image_mean", "image_std") if options["do_normalize"] else ():
        value, channels = options[name], options["num_channels"]
        numbers = [value] if is_finite(value) else to_list(value) or []
        is_right = len(numbers) in (1, channels) and all(map(is_finite, numbers))
        if not is_right or (name == "image_std" and min(numbers) <= 0):
            kind = "a number greater than 0" if name == "image_std" else "a number"
            raise ValueError(
                f"`{name}` must be {kind}, or one for each channel ({channels}), where `do_normalize` is True, "
                f"got {value!r}."
            )


def require_obeyed(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse settings of a call, or of an input, that would not be looked at.

    Args:
        given (`dict`): What the caller gave; `None` says nothing.
        options (`dict`): All settings, with these.

    Raises:
        `ValueError`: One whose switch is off, or both of `num_frames` and `fps`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if {"num_frames", "fps"} <= given.keys():
        raise ValueError(
            f"`num_frames` and `fps` must not both be given, got {given['num_frames']!r} and {given['fps']!r}."
        )
    for name, value in given.items():
        if name in _SWITCH_OF and not options[_SWITCH_OF[name]]:
            raise ValueError(f"`{name}` must be None where `{_SWITCH_OF[name]}` is False, got {value!r}.")
