"""Progress bars of data steps: one line that moves on a terminal, a line now and then in a file."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 15.0


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Yield items while a bar on standard error says how many there were, of how many, and how fast.

    Args:
        items (`Iterable`): What is yielded.
        description (`str`): In front of the bar.
        total (`int`, *optional*): How many there are; the length of `items` when `None`, if it has one.
        unit (`str`): What they are.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    is_terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        desc=description,
        total=total,
        unit=f" {unit}",
        mininterval=0.1 if is_terminal else _SECONDS_BETWEEN_LINES,
        maxinterval=10.0 if is_terminal else _SECONDS_BETWEEN_LINES,
    )
