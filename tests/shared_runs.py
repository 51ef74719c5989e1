"""Works that run side by side in threads and share their steps, as the jobs of a server do."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from josie.modeling_josie.layers.shared_steps import share_steps
from josie.serving.shared_steps import SharedSteps
from josie.serving.turns import CancelledError, Ticket, Turns


class CountedSteps(SharedSteps):
    """Steps that are counted: `sizes` has how many were made as one, by the name of what made them."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[str, list[int]] = {}

    def _make(self, steps):
        self.sizes.setdefault(steps[0].make.__name__, []).append(len(steps))
        super()._make(steps)


def run_together(
    works: Sequence[Callable[[Ticket], Any]], delays: Sequence[int] | None = None
) -> tuple[list[Any], CountedSteps]:
    """Run each work in a thread; return what it returned, or the error that it raised, and the steps.

    Args:
        works: Take their ticket.
        delays: For each, how many steps of the others it lets pass before it begins.
    """
    turns, steps = Turns(), CountedSteps()
    tickets = [Ticket(turns) for _ in works]
    results: list[Any] = [None] * len(works)
    first = Ticket(turns)
    first.take()  # nobody begins before all wait

    def run(number: int) -> None:
        ticket = tickets[number]
        try:
            with ticket, share_steps(partial(steps.run, ticket)):
                for _ in range(0 if delays is None else delays[number]):
                    ticket.pass_on()
                results[number] = works[number](ticket)
        except (Exception, CancelledError) as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for number, thread in enumerate(threads):
        thread.start()
        while len(turns._waiting) <= number:
            pass
    first.leave()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert steps._waiting == []
    return results, steps
