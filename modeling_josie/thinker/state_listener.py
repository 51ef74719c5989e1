"""States of the Thinker for who speaks its answer: generation tells what each step made, in the thread that runs it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_STATE_LISTENER: ContextVar[Callable[[torch.Tensor], None] | None] = ContextVar("state_listener", default=None)


def report_state(last_hidden_state: torch.Tensor) -> None:
    """Tell whoever listens what the Thinker made of what it just read, `(batch, length, hidden_size)`."""
    listener = _STATE_LISTENER.get()
    if listener is not None:
        listener(last_hidden_state)


@contextmanager
def listen_to_states(listener: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Hand the Thinker's states to `listener` while it generates in this thread."""
    token = _STATE_LISTENER.set(listener)
    try:
        yield
    finally:
        _STATE_LISTENER.reset(token)
