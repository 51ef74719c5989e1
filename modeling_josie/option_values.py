"""Values of options of generation, checked: what does not fit is named."""

from collections.abc import Collection, Iterable
from math import isfinite
from numbers import Integral, Real
from typing import Any

from ..configuration_josie.unicode_text import require_unicode

_SMALLEST_SEED, _LARGEST_SEED = -(2**63), 2**64 - 1  # of torch's generators
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1e-30, 1e30  # beyond, logits and what float32 holds of them are 0 or infinite


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer, which a `bool` is not here."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_integer(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no integer."""
    if not is_integer(value):
        raise ValueError(f"`{name}` must be an integer, got {value!r}.")


def check_at_least(name: str, value: Any, least: int) -> None:
    """Raise a `ValueError` that names an option, `name`, whose value is no integer from `least` on."""
    if not is_integer(value) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {describe(value)}.")


def check_number(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no number."""
    if not is_number(value):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, which a `bool` is not here."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_finite(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no finite number."""
    if not is_number(value) or not isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {describe(value)}.")


def check_positive(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no number above 0."""
    if not is_number(value) or not value > 0:
        raise ValueError(f"`{name}` must be a number above 0, got {describe(value)}.")


def check_share(name: str, value: Any, may_be_one: bool = True) -> None:
    """Raise a `ValueError` that names an option, `name`, whose value is not in [0, 1], or 1 without `may_be_one`."""
    if not is_number(value) or not 0 <= value <= 1 or (value == 1 and not may_be_one):
        raise ValueError(f"`{name}` must be a number in [0, 1{']' if may_be_one else ')'}, got {describe(value)}.")


def check_penalty(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no float above 0, which transformers asks for."""
    if not is_number(value) or not value > 0 or not (isinstance(value, float) or value == 1):
        raise ValueError(f"`{name}` must be a float above 0, got {describe(value)}.")
    check_factor(name, value)


def check_temperature(name: str, value: Any) -> None:
    """Raise a `ValueError` that names a temperature that is not finite, or that logits cannot be divided by."""
    check_finite(name, value)
    if value > 0:  # transformers says what others are for
        check_factor(name, value)


def check_factor(name: str, value: Any) -> None:
    """Raise a `ValueError` that names a number above 0 which logits cannot be multiplied with and divided by."""
    if not _SMALLEST_FACTOR <= value <= _LARGEST_FACTOR:
        raise ValueError(f"`{name}` must be in [{_SMALLEST_FACTOR}, {_LARGEST_FACTOR}], got {value}.")


def check_decay(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no pair of a start and a factor."""
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not is_pair or not is_integer(value[0]) or not is_number(value[1]):
        raise ValueError(f"`{name}` must be an integer and a number, (start, factor), got {describe(value)}.")


def check_flag(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {describe(value)}.")


def check_strings(name: str, value: Any) -> None:
    """Raise a `ValueError` that names an option whose value is no string and no list of them, or has empty ones."""
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not strings or not all(isinstance(s, str) and s for s in strings):
        raise ValueError(
            f"`{name}` must be a string or a list of at least one, none of them empty, got {describe(value)}."
        )
    for string in strings:
        require_unicode(name, string)


def check_methods(name: str, value: Any, methods: Iterable[str]) -> None:
    """Raise a `ValueError` that names an option, `name`, whose value does not have some `methods`."""
    if not all(callable(getattr(value, method, None)) for method in methods):
        names = " and ".join(f"`{method}`" for method in methods)
        raise ValueError(f"`{name}` must have the methods {names}, got a {type(value).__name__}.")


def check_integers(name: str, value: Any, num_ids: int | None = None) -> None:
    """Raise a `ValueError` that names an option whose value is no list of integers from 0 on.

    Args:
        name (`str`): The option.
        value: Its value.
        num_ids (`int`, *optional*): What they must be below; any number when `None`.
    """
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(map(is_integer, value)):
        raise ValueError(f"`{name}` must be a list of integers, got {value!r}.")
    for number in value:
        if number < 0 or (num_ids is not None and number >= num_ids):
            allowed = "of at least 0" if num_ids is None else f"in [0, {num_ids - 1}]"
            raise ValueError(f"`{name}` must be a list of integers {allowed}, got {number} among them.")


def describe(value: Any) -> str:
    """Return what a sentence says of a value: large ones by their type."""
    is_large = hasattr(value, "shape") or hasattr(value, "vocab_size")
    return f"a {type(value).__name__}" if is_large or len(repr(value)) > 200 else repr(value)


def check_seeds(name: str, seed: Any) -> None:
    """Raise a `ValueError` that names an option whose value is neither an integer nor several."""
    is_list = isinstance(seed, Collection) and not isinstance(seed, str)
    if not is_integer(seed) and not (is_list and all(map(is_integer, seed))):
        raise ValueError(f"`{name}` must be an integer or one for each row, got {seed!r}.")
    _check_range(name, [seed] if is_integer(seed) else seed)


def _check_range(name: str, seeds: Iterable[int]) -> None:
    for seed in seeds:
        if not _SMALLEST_SEED <= seed <= _LARGEST_SEED:
            raise ValueError(f"`{name}` must be in [-2**63, 2**64 - 1] for every row, got {seed}.")


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
    _check_range(name, seeds)
    return seeds
