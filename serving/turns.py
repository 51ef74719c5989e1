"""Turns: several threads work at one model, one step at a time and each in turn.

A thread holds the turn while it computes. Between two steps it hands the turn to whoever has waited longest, so that
many answers grow side by side, however long each is. Who is about to keep a listener waiting goes before the others: an
answer that begins costs those who hear it a moment, a gap in one that is being heard is heard. What a thread holds in
the middle of its work stays on its stack.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch


class CancelledError(Exception):
    """The work was cancelled."""


_MARGIN = 0.06  # seconds of speech that a listener has in advance, below which its answer is urgent
_PATIENCE = 0.5  # seconds of waiting after which everybody is as urgent


class Turns:
    """A lock that is given in the order of asking, to urgent ones first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._holder: Ticket | None = None

    def take(self, ticket: "Ticket") -> None:
        """Wait for the turn."""
        with self._lock:
            if self._holder is None:
                self._holder = ticket
                return
            self._wait(ticket)
        ticket.go.acquire()

    def leave(self) -> None:
        """Give the turn to the next."""
        with self._lock:
            self._give()

    def pass_on(self, ticket: "Ticket") -> None:
        """Give the turn to the next, and wait for it behind all who wait.

        Both at once: whoever gets it sees that this ticket waits.
        """
        with self._lock:
            self._wait(ticket)
            self._give()
        ticket.go.acquire()

    def _wait(self, ticket: "Ticket") -> None:
        ticket.waits_since = time.monotonic()
        self._waiting.append(ticket)

    def _give(self) -> None:
        """Give the turn to the first that is urgent, or else to the first; with the lock."""
        if not self._waiting:
            self._holder = None
            return
        now = time.monotonic()
        self._holder = next((ticket for ticket in self._waiting if ticket.is_urgent(now)), self._waiting[0])
        self._waiting.remove(self._holder)
        self._holder.waited += now - self._holder.waits_since
        self._holder.go.release()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)


class Ticket:
    """One thread's part in the turns.

    Args:
        turns ([`Turns`]): What it takes part in.
    """

    # When a listener has heard all that was made; `None` where nobody listens, or not yet.
    due: Callable[[], float | None] | None = None
    waits_since = 0.0
    waited = 0.0  # seconds in all

    def __init__(self, turns: Turns):
        self.turns = turns
        self.go = threading.Semaphore(0)
        self.is_cancelled = False
        self._generators: list[tuple[Any, Any]] = []  # of torch, and the state that is this thread's

    def draw_from(self, seed: int | None, device: torch.device) -> None:
        """Draw from random streams of its own from now on, whatever others draw in between.

        Args:
            seed (`int`, *optional*): Of the streams; those of all when `None`.
            device (`torch.device`): Where it draws besides the processor.
        """
        if seed is None:
            return
        torch.manual_seed(seed)
        sources = [torch.random]
        if device.type != "cpu":
            sources.append(torch.get_device_module(device))
        self._generators = [(source, None) for source in sources]

    def is_urgent(self, now: float) -> bool:
        """Return whether a listener would soon wait, or this one has waited for long.

        Args:
            now (`float`): Of `time.monotonic`.
        """
        due = None if self.due is None else self.due()
        return (due is not None and due - now < _MARGIN) or now - self.waits_since > _PATIENCE

    def take(self) -> None:
        """Wait for the turn."""
        self.turns.take(self)
        self._restore_streams()

    def leave(self) -> None:
        """Give the turn to another."""
        self._keep_streams()
        self.turns.leave()

    def _keep_streams(self) -> None:
        self._generators = [(source, source.get_rng_state()) for source, _ in self._generators]

    def _restore_streams(self) -> None:
        for source, state in self._generators:
            source.set_rng_state(state)

    def __enter__(self) -> "Ticket":
        self.take()
        return self

    def __exit__(self, *args: object) -> None:
        self.leave()

    def pass_on(self) -> None:
        """Give the others a step each.

        Raises:
            `CancelledError`: The work was cancelled.
        """
        if not self.is_cancelled and self.turns.is_wanted:
            self._keep_streams()
            self.turns.pass_on(self)
            self._restore_streams()
        self.check()

    def check(self) -> None:
        """Raise a `CancelledError` if the work was cancelled."""
        if self.is_cancelled:
            raise CancelledError
