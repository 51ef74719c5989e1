"""Values of options of generation, checked: what does not fit is named."""

from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer, which a `bool` is not here."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_integer(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no integer."""
    if not is_integer(value):
        raise ValueError(f"`{name}` must be an integer, got {value!r}.")


def check_number(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")


def check_integers(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no list of integers."""
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(map(is_integer, value)):
        raise ValueError(f"`{name}` must be a list of integers, got {value!r}.")


def check_seeds(name: str, seed: Any) -> None:
    """Raise a `ValueError` that names an option whose value is neither an integer nor several."""
    is_list = isinstance(seed, Collection) and not isinstance(seed, str)
    if not is_integer(seed) and not (is_list and all(map(is_integer, seed))):
        raise ValueError(f"`{name}` must be an integer or one for each row, got {seed!r}.")


def list_seeds(name: str, seed: Any, num_rows: int) -> list[int]:
    """Return the seed of each row; from one number they count on.

    Args:
        name (`str`): The option.
        seed (`int` or `list[int]`): Its value.
        num_rows (`int`): Rows.

    Raises:
        `ValueError`: It is neither, or there is not one for each row.
    """
    check_seeds(name, seed)
    seeds = [int(number) for number in (range(seed, seed + num_rows) if is_integer(seed) else seed)]
    if len(seeds) != num_rows:
        raise ValueError(f"`{name}` must be one number for each of {num_rows} rows, got {len(seeds)}.")
    return seeds
