"""Progress on a terminal: a spinner while something takes time, and a bar over countable steps.

Both are drawn on standard error and vanish when they end. Where standard error is no terminal nothing is drawn.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .shared import is_terminal


@contextmanager
def waiting(task: str) -> Iterator[None]:
    """Show a spinner with the name of a task while the block runs."""
    if not is_terminal(sys.stderr):
        yield
        return

    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(f"{task} ...")):
        yield


@contextmanager
def counting(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time that is left; the block calls the given function with the number of steps just done."""
    if not is_terminal(sys.stderr):
        yield lambda num_steps: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(task, total=total)
        yield lambda num_steps: progress.advance(bar, num_steps)
