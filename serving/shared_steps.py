"""Steps of several jobs made as one: who has the turn makes the step of all who wait for one of the same form.

A job that comes to a step leaves it with the others' and goes to the end of the queue. Every job before it does so too,
or does something else. When its turn comes, either somebody has made its step, or it makes those of all. So jobs join
a batch at any step and leave it by ending, and each goes on by itself in between.

Only the holder of the turn touches what is here, so nothing is locked.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from .turns import Ticket


@dataclass(eq=False)
class _Step:
    """A step that a job waits for.

    Args:
        make (`Callable`): Makes parts of its form.
        part: What the job brings.
        key (`Hashable`): The form.
        is_made (`bool`): Whether it has been made.
        result: What it gave.
        error (`Exception`, *optional*): What was raised instead.
    """

    make: Callable[[list[Any]], list[Any]]
    part: Any
    key: Hashable
    is_made: bool = False
    result: Any = None
    error: Exception | None = None


class SharedSteps:
    """The steps that jobs wait for."""

    def __init__(self) -> None:
        self._waiting: list[_Step] = []

    def run(
        self, ticket: Ticket, make: Callable[[list[Any]], list[Any]], part: Any, key: Hashable, max_waiting_steps: int
    ) -> Any:
        """Make a step of the job that has the turn, as [`run_step`] says, or let another make it.

        Args:
            ticket ([`Ticket`]): Of the job.
            make, part, key, max_waiting_steps: As of [`run_step`].

        Raises:
            `CancelledError`: The job was cancelled.
        """
        step = _Step(make, part, key)
        self._waiting.append(step)
        try:
            ticket.pass_on()
            while not step.is_made and max_waiting_steps and any(other.key != key for other in self._waiting):
                max_waiting_steps -= 1
                ticket.pass_on()
            if not step.is_made:
                self._make([other for other in self._waiting if other.key == key])
        finally:
            if not step.is_made:
                self._waiting.remove(step)
        if step.error is not None:
            raise step.error
        return step.result

    def _make(self, steps: list[_Step]) -> None:
        """Make some steps as one; where that fails, each by itself, so that an error reaches only whose it is."""
        try:
            results = steps[0].make([step.part for step in steps])
        except Exception as error:
            if len(steps) > 1:
                for step in steps:
                    self._make([step])
                return
            steps[0].error, results = error, [None]
        for step, result in zip(steps, results, strict=True):
            step.result, step.is_made = result, True
            self._waiting.remove(step)
