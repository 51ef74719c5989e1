"""Turns: several threads work at one model, one step at a time and each in turn.

A thread holds the turn while it computes. Between two steps it hands the turn to whoever has waited longest, so that
many answers grow side by side, however long each is. What a thread holds in the middle of its work stays on its stack.
"""

import threading
from collections import deque
from typing import Any

import torch


class CancelledError(Exception):
    """The work was cancelled."""


class Turns:
    """A lock that is given in the order of asking."""

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
            self._waiting.append(ticket)
        ticket.go.acquire()

    def leave(self) -> None:
        """Give the turn to who has waited longest."""
        with self._lock:
            self._give()

    def pass_on(self, ticket: "Ticket") -> None:
        """Give the turn to who has waited longest, and wait for it behind all who wait.

        Both at once: whoever gets it sees that this ticket waits.
        """
        with self._lock:
            self._waiting.append(ticket)
            self._give()
        ticket.go.acquire()

    def _give(self) -> None:
        self._holder = self._waiting.popleft() if self._waiting else None
        if self._holder is not None:
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
