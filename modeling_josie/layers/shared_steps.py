"""Steps that several streams make together.

A step of one row reads all weights, and so does a step of many rows. Streams that run side by side, each in a thread of
its own, can therefore bring their parts of a step to one place, where they are made as one batch. Who runs the streams
says so by [`share_steps`]; without it each stream makes its own steps.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class StepRunner(Protocol):
    """A place where the parts of several streams come together."""

    def __call__(self, make: Callable[[list[Any]], list[Any]], part: Any, key: Hashable, max_waiting_steps: int) -> Any:
        """Return what `make` gives for `part`; arguments as of [`run_step`]."""
        ...


_RUNNER: ContextVar[StepRunner | None] = ContextVar("step_runner", default=None)


def run_step(
    make: Callable[[list[Part]], list[Result]], part: Part, key: Hashable, max_waiting_steps: int = 0
) -> Result:
    """Make a step, together with those of other streams where somebody shares them.

    Args:
        make (`Callable`): Makes the parts of one step or of several; what it gives for one does not depend on the
            others, but for rounding.
        part: What this stream brings.
        key (`Hashable`): Parts with the same key fit into one call of `make`.
        max_waiting_steps (`int`): For how many steps of the others this one may wait until they bring the same.
    """
    runner = _RUNNER.get()
    return make([part])[0] if runner is None else runner(make, part, key, max_waiting_steps)


@contextmanager
def share_steps(runner: StepRunner) -> Iterator[None]:
    """Give the steps of this thread to `runner` meanwhile."""
    token = _RUNNER.set(runner)
    try:
        yield
    finally:
        _RUNNER.reset(token)
