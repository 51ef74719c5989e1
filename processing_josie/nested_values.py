"""Values of tables and of other libraries' objects as plain lists, dicts and arrays.

Lists come back as arrays from pandas, as scalars from pyarrow, as columns from datasets; messages may be dataclasses or
models of pydantic.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def _plain_string(value: Any) -> Any:
    """Return a string as a plain one, since members of enums are found and printed by their names; others as given."""
    return str.__str__(value) if isinstance(value, str) else value


def to_plain(value: Any) -> Any:
    """Return a value whose dicts and lists, at any depth, have plain strings."""
    if isinstance(value, dict):
        return {_plain_string(name): to_plain(item) for name, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list) else _plain_string(value)


def to_list(value: Any) -> list[Any] | None:
    """Return a sequence of any library as a list with plain strings, or `None` of anything else, a string among it."""
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        return None
    if isinstance(value, Sequence):
        return [_plain_string(item) for item in value]
    for name in ("to_pylist", "tolist", "as_py"):  # of pyarrow; of NumPy, pandas; of scalars of pyarrow
        method = getattr(value, name, None)
        if callable(method):
            plain = method()
            return plain if isinstance(plain, list) else None
    return None


def to_dict(value: Any) -> dict[str, Any] | None:
    """Return a mapping, dataclass or model of pydantic as a dict of its first level, or `None` of anything else.

    Strings of that level are plain, so that a member of an enum is its value.
    """
    values = _fields_of(value)
    return None if values is None else {_plain_string(name): _plain_string(item) for name, item in values.items()}


def _fields_of(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for name in ("model_dump", "as_py"):
        method = getattr(value, name, None)
        if callable(method):
            plain = method()
            return plain if isinstance(plain, dict) else None
    return None


def from_scalar(value: Any) -> Any:
    """Return what a scalar of pyarrow holds, also as a value of a dict; anything else as it is."""
    if isinstance(value, dict):
        return {name: from_scalar(item) for name, item in value.items()}
    return value.as_py() if hasattr(value, "as_py") else value


def require_dense(value: Any, name: str) -> None:
    """Raise a `ValueError` if a value is a tensor without values, or one that does not store each of them.

    Args:
        value: A tensor or anything else.
        name (`str`): Argument that the caller knows it by, for messages.
    """
    if not isinstance(value, torch.Tensor):
        return
    kinds = {"meta": value.is_meta, "nested": value.is_nested, "quantized": value.is_quantized}
    kind = next((kind for kind, is_so in kinds.items() if is_so), str(value.layout).removeprefix("torch."))
    if kind != "strided":
        raise ValueError(f"`{name}` must be a tensor that stores each of its values, got a {kind} one.")


def is_empty(value: Any) -> bool:
    """Return whether a value says nothing: `None`, or an empty list, text or dict, or a dict of such values."""
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def join_arrays(value: Any) -> Any:
    """Return an array of arrays, as nested lists of a table come back, as one; anything else as it is.

    Raises:
        `ValueError`: Its rows are of different lengths.
    """
    if not is_nested(value) or not len(value) or not all(isinstance(row, (np.ndarray, list)) for row in value):
        return value
    return np.stack([np.asarray(join_arrays(row)) for row in value])


def is_nested(value: Any) -> bool:
    """Return whether a value is an array of objects, which in tables stands for a list."""
    return isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1
