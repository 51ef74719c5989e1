"""The layout of a batch: which inputs belong to which text."""

from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch

from .audio import is_clip
from .images import is_image
from .video import is_video

_IS_ITEM = {"image": is_image, "video": is_video, "audio": is_clip}
_BATCH_DIMENSIONS = {"image": 4, "video": 5}

RowItems = list[list[Any]]
T = TypeVar("T")


def to_rows(modality: str, name: str, values: Any, counts: list[int], has_placeholders: bool) -> RowItems:
    """Share inputs of one modality out to the texts of a batch.

    Args:
        modality (`"image"`, `"video"` or `"audio"`): What they are.
        name (`str`): Argument that the caller knows them by, for messages.
        values: One input, a list of inputs, or a list of lists, one for each text; nothing when `None`.
        counts (`list[int]`): Placeholders of this modality in each text.
        has_placeholders (`bool`): Whether any text has placeholders of any modality, and so takes inputs by them.

    Returns:
        One list of inputs for each text.

    Raises:
        `ValueError`: There are not as many as the texts need.
    """
    num_rows, is_item = len(counts), _IS_ITEM[modality]
    if values is None:
        return [[] for _ in counts]
    if isinstance(values, (np.ndarray, torch.Tensor)) and values.ndim == _BATCH_DIMENSIONS.get(modality):
        values = list(values)
    if modality == "image" and _is_waveform(values):
        raise ValueError(f"`audio` must be given by its name, as `audio=...`, got {len(values)} values as `{name}`.")
    if is_item(values):
        values = [values]
    elif not isinstance(values, (list, tuple)):
        in_place = ", and a `text` in their place a string or a list of strings" if modality == "image" else ""
        raise ValueError(
            f"`{name}` must be files, arrays, tensors or lists of them{in_place}, got a {type(values).__name__}."
        )
    values = list(values)
    nested = [isinstance(value, (list, tuple)) and not is_item(value) for value in values]
    if values and any(nested):
        if len(values) != num_rows:
            raise ValueError(f"`{name}` must be a list of {num_rows}, one for each text, got {len(values)}.")
        return [list(value) if is_list else [value] for value, is_list in zip(values, nested, strict=True)]
    if num_rows == 1:
        return [values]
    if has_placeholders:
        if len(values) != sum(counts):
            raise ValueError(f"`{name}` must be as many as their placeholders ({sum(counts)}), got {len(values)}.")
        return split_rows(values, counts)
    if len(values) != num_rows:
        raise ValueError(f"`{name}` must be {num_rows}, one for each text, or a list for each, got {len(values)}.")
    return [[value] for value in values]


def _is_waveform(values: Any) -> bool:
    """Return whether values can be nothing but samples: `transformers serve` gives a clip without its name."""
    is_numbers = isinstance(values, np.ndarray) and values.dtype.kind in "iuf"
    return (is_numbers or isinstance(values, torch.Tensor)) and values.ndim == 1


def split_rows(values: list[T], counts: list[int]) -> list[list[T]]:
    """Cut a list into consecutive pieces of `counts` items."""
    return [values[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]
