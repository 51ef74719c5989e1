"""Values of tables and of other libraries' objects as plain lists, dicts and arrays.

Lists come back as arrays from pandas, as scalars from pyarrow, as columns from datasets; messages may be dataclasses or
models of pydantic.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def to_list(value: Any) -> list[Any] | None:
    """Return a sequence of any library as a list, or `None` of anything else, a string among it."""
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        return None
    if isinstance(value, Sequence):
        return list(value)
    for name in ("to_pylist", "tolist", "as_py"):  # of pyarrow; of NumPy, pandas; of scalars of pyarrow
        method = getattr(value, name, None)
        if callable(method):
            plain = method()
            return plain if isinstance(plain, list) else None
    return None


def to_dict(value: Any) -> dict[str, Any] | None:
    """Return a mapping, dataclass or model of pydantic as a dict of its first level, or `None` of anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for name in ("model_dump", "as_py"):
        method = getattr(value, name, None)
        if callable(method):
            plain = method()
            return plain if isinstance(plain, dict) else None
    return None


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
