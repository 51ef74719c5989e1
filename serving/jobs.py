"""Jobs: work at the model in a thread, whose items are taken in asyncio."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from ..modeling_josie.layers.shared_steps import share_steps
from .errors import ClientError, server_busy, server_stopped
from .shared_steps import SharedSteps
from .turns import CancelledError, Ticket, Turns

_TICKET: ContextVar[Ticket | None] = ContextVar("ticket", default=None)
_END = object()


def pass_on() -> None:
    """Give other jobs a step each, where a job runs in this thread.

    Raises:
        `CancelledError`: The job was cancelled.
    """
    ticket = _TICKET.get()
    if ticket is not None:
        ticket.pass_on()


class Job:
    """Work that gives items: an asynchronous iterator over them, which ends when it is cancelled.

    Args:
        turns ([`Turns`]): Of the model.
        max_waiting (`int`): Items that wait to be taken before the work pauses.
        steps ([`SharedSteps`]): Those of all jobs.
    """

    def __init__(self, turns: Turns, max_waiting: int, steps: SharedSteps):
        self.ticket, self._steps = Ticket(turns), steps
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(max_waiting)
        self._error: BaseException | None = None
        self._reason: ClientError | None = None  # why it was cancelled
        self._timer: asyncio.TimerHandle | None = None
        self._is_ended = False
        self.paused = 0.0  # seconds that the work has waited for items to be taken

    def put(self, item: Any) -> None:
        """Give an item, in the thread of the work; the turn is with others while there is no room for it.

        Raises:
            `CancelledError`: The job was cancelled.
        """
        if not self._room.acquire(blocking=False):
            self.ticket.leave()
            begin = time.monotonic()
            try:
                self._room.acquire()
            finally:
                self.paused += time.monotonic() - begin
                self.ticket.take()
        self.ticket.check()
        self._tell(item)

    def _run_step(
        self, make: Callable[[list[Any]], list[Any]], part: Any, key: Hashable, max_waiting_steps: int
    ) -> Any:
        return self._steps.run(self.ticket, make, part, key, max_waiting_steps)

    def run(self, work: Callable[["Job"], Any]) -> None:
        """Do the work, in a thread."""
        token = _TICKET.set(self.ticket)
        try:
            with contextlib.suppress(CancelledError), self.ticket, share_steps(self._run_step):
                work(self)
        except BaseException as error:  # raised again where items are taken
            self._error = error
        finally:
            _TICKET.reset(token)
            self._tell(_END)

    def _tell(self, item: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody takes anything any more
            self.ticket.is_cancelled = True

    def end_after(self, seconds: float) -> None:
        """Cancel the work when it takes longer; who takes its items is told so."""
        error = ClientError("The answer took too long.", code="timeout", status=504)
        self._timer = self._loop.call_later(seconds, self.cancel, error)

    def cancel(self, reason: ClientError | None = None) -> None:
        """End the work at its next step, and the iteration at once. Any number of times; the first counts.

        Args:
            reason ([`ClientError`], *optional*): What the iteration raises; it just ends when `None`.
        """
        if self._timer is not None:
            self._timer.cancel()
        if not self.ticket.is_cancelled:
            self.ticket.is_cancelled, self._reason = True, reason
            self._room.release()
            self._items.put_nowait(_END)

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> Any:
        if self._is_ended:
            raise StopAsyncIteration
        item = _END if self.ticket.is_cancelled else await self._items.get()
        if item is _END or self.ticket.is_cancelled:
            self._is_ended = True
            error, self._error = self._reason if self.ticket.is_cancelled else self._error, None
            if error is not None:
                raise error
            raise StopAsyncIteration
        self._room.release()
        return item


class Workers:
    """Threads for jobs, which are kept for the next ones.

    Args:
        max_jobs (`int`): Most jobs at a time.
        max_waiting (`int`): As of [`Job`].
    """

    def __init__(self, max_jobs: int, max_waiting: int):
        self.turns, self.steps = Turns(), SharedSteps()
        self.max_jobs, self.max_waiting = max_jobs, max_waiting
        self._pool = ThreadPoolExecutor(max_jobs, "josie-serve")
        self._jobs: set[Job] = set()
        self._is_stopped = False

    def start(self, work: Callable[[Job], Any], is_due: bool = False) -> Job:
        """Begin work.

        Args:
            work (`Callable`): What to do.
            is_due (`bool`): Whether it goes before what nobody waits for yet.

        Raises:
            [`ClientError`]: There is too much of it, or the server is being stopped.
        """
        if self._is_stopped:
            raise server_stopped()
        if len(self._jobs) >= self.max_jobs:
            raise server_busy("The server has as much to do as it can; try again later.")
        job = Job(self.turns, self.max_waiting, self.steps)
        if is_due:
            job.ticket.due = lambda: 0.0
        self._jobs.add(job)
        done = self._pool.submit(job.run, work)
        done.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    @property
    def num_jobs(self) -> int:
        """Jobs that are worked at."""
        return len(self._jobs)

    def stop(self) -> None:
        """Cancel everything, tell so who waits for it, and begin nothing more."""
        self._is_stopped = True
        for job in list(self._jobs):
            job.cancel(server_stopped())

    def close(self) -> None:
        """Cancel everything, and wait for it."""
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
