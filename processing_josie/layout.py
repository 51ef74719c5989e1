"""The layout of a batch: which inputs belong to which text, and rows of one length."""

from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch

from .audio import is_clip
from .pixels import is_picture
from .video import is_video

KINDS = ("image", "video", "audio")  # also the order in front of a text without placeholders
ARGUMENTS = {"image": "images", "video": "videos", "audio": "audio"}
_IS_ITEM = {"image": is_picture, "video": is_video, "audio": is_clip}
_BATCH_DIMENSIONS = {"image": 4, "video": 5}

RowItems = list[list[Any]]
T = TypeVar("T")


def to_rows(kind: str, name: str, values: Any, counts: list[int], has_placeholders: bool) -> RowItems:
    """Share inputs of one kind out to the texts of a batch.

    Args:
        kind (`"image"`, `"video"` or `"audio"`): What they are.
        name (`str`): Argument that the caller knows them by, for messages.
        values: One input, a list of inputs, or a list of lists, one for each text; nothing when `None`.
        counts (`list[int]`): Placeholders of this kind in each text.
        has_placeholders (`bool`): Whether any text has placeholders of any kind, and so takes inputs by them.

    Returns:
        One list of inputs for each text.

    Raises:
        `ValueError`: There are not as many as the texts need.
    """
    num_rows, is_item = len(counts), _IS_ITEM[kind]
    if values is None:
        return [[] for _ in counts]
    if isinstance(values, (np.ndarray, torch.Tensor)) and values.ndim == _BATCH_DIMENSIONS.get(kind):
        values = list(values)
    if is_item(values):
        values = [values]
    elif not isinstance(values, (list, tuple)):
        raise ValueError(f"`{name}` must be files, arrays, tensors or lists of them, got a {type(values).__name__}.")
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


def split_rows(values: list[T], counts: list[int]) -> list[list[T]]:
    """Cut a list into consecutive pieces of `counts` items."""
    return [values[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]


def pad_tokens(
    data: dict[str, list],
    pad_token_id: int | None,
    max_length: int | None = None,
    padding: Any = True,
    padding_side: str | None = "left",
    pad_to_multiple_of: int | None = None,
) -> dict[str, list]:
    """Bring rows to one length and add `attention_mask`.

    Args:
        data (`dict`): `input_ids`, and `offset_mapping` if wanted, each a list of rows.
        pad_token_id (`int`, *optional*): What `input_ids` are filled up with.
        max_length (`int`, *optional*): Least length when `padding` is `"max_length"`.
        padding (`bool` or `str`): Whether to pad, as in transformers' tokenizers.
        padding_side (`"left"` or `"right"`): Where.
        pad_to_multiple_of (`int`, *optional*): What the length must be a multiple of.

    Raises:
        `ValueError`: `max_length` is missing, or there is nothing to pad with.
    """
    lengths = [len(ids) for ids in data["input_ids"]]
    data = data | {"attention_mask": [[1] * length for length in lengths]}
    if padding in (False, None, "do_not_pad"):
        return data
    target = max(lengths)
    if padding == "max_length":
        if max_length is None:
            raise ValueError("`max_length` must be given when `padding` is 'max_length', got None.")
        target = max(target, max_length)
    multiple = pad_to_multiple_of or 1
    target = -(-target // multiple) * multiple
    if pad_token_id is None and target > min(lengths):
        raise ValueError("`padding` must be False, as the tokenizer has no padding token, got True.")
    fillers = {"input_ids": pad_token_id, "offset_mapping": (0, 0), "attention_mask": 0}
    padded = {}
    for name, rows in data.items():
        fills = [[fillers[name]] * (target - len(row)) for row in rows]
        left = padding_side != "right"
        padded[name] = [fill + row if left else row + fill for row, fill in zip(rows, fills, strict=True)]
    return padded
