"""Streamers of speech: what takes the pieces of an answer while it is made.

A streamer has `put`, which takes a [`SpeechPiece`], and `end`, as the streamers of text in transformers have.
"""

import asyncio
import atexit
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from ..outputs import SpeechPiece

_LEAVING_SECONDS, _ENDED_SECONDS = 10.0, 0.2  # for which the end of the interpreter waits for a thread
_SOURCES: weakref.WeakSet[Any] = weakref.WeakSet()


def close_at_exit(source: Any) -> None:
    """Make the end of the interpreter call `close_at_exit` of a source; with a thread still in torch it would abort."""
    _SOURCES.add(source)


@atexit.register
def _close_sources() -> None:
    with contextlib.ExitStack() as closing:
        for source in list(_SOURCES):
            closing.callback(source.close_at_exit)


class StreamClosedError(RuntimeError):
    """Pieces were given to a streamer that was closed."""


class PieceIterator(Iterator[SpeechPiece]):
    """An iterator over pieces that `async for` takes too, which waits for each in another thread."""

    def __reduce__(self) -> Any:
        raise TypeError("Pieces of speech are made once, and cannot be copied or pickled.")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SpeechPiece:
        piece = await asyncio.to_thread(next, self, None)
        if piece is None:
            raise StopAsyncIteration
        return piece


class AudioIteratorStreamer(PieceIterator):
    """A streamer that is iterated over in another thread, or in asyncio.

    ```python
    streamer = AudioIteratorStreamer()
    options = dict(generation_mode="audio", audio_streamer=streamer)
    threading.Thread(target=model.generate, kwargs=inputs | options).start()
    for piece in streamer: ...  # or `async for`
    ```

    Who stops taking before the end calls `close`: the other thread waits for room otherwise.

    Args:
        max_waiting (`int`): Pieces that wait to be taken before `put` waits too.

    Raises:
        `ValueError`: `max_waiting` is below 1.
    """

    def __init__(self, max_waiting: int = 16):
        if max_waiting < 1:
            raise ValueError(f"`max_waiting` must be at least 1, got {max_waiting}.")
        self.max_waiting = max_waiting
        self._pieces: deque[SpeechPiece] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._is_ended = self._is_closed = False
        self.maker: threading.Thread | None = None  # that puts
        close_at_exit(self)

    def put(self, piece: SpeechPiece) -> None:
        """Append a piece, when there is room.

        Raises:
            `StreamClosedError`: Nobody takes pieces any more.
        """
        self.maker = threading.current_thread()
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._pieces) < self.max_waiting)
            if self._is_closed:
                raise StreamClosedError("The streamer was closed: nobody takes pieces any more.")
            self._pieces.append(piece)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """End the stream; an `error` is raised behind the last piece."""
        with self._changed:
            self._is_ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more pieces, and forget those that wait."""
        with self._changed:
            self._is_closed = True
            self._pieces.clear()
            self._changed.notify_all()

    def close_at_exit(self) -> None:
        """Close, and wait for the thread that puts, which ends with its step of generation; a user's may never end."""
        self.close()
        if self.maker is not None and self.maker is not threading.current_thread():
            self.maker.join(_ENDED_SECONDS if self._is_ended else _LEAVING_SECONDS)

    def __next__(self) -> SpeechPiece:
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._is_ended or self._is_closed)
            if self._pieces:
                self._changed.notify_all()
                return self._pieces.popleft()
            error, self._error = self._error, None
        if error is not None and not self._is_closed:
            raise error
        raise StopIteration


class CallbackStreamer:
    """A streamer that calls a function with each piece.

    Args:
        take (`Callable`): The function.
    """

    def __init__(self, take: Callable[[SpeechPiece], Any]):
        self.take = take

    def put(self, piece: SpeechPiece) -> None:
        """Take a piece."""
        self.take(piece)

    def end(self) -> None:
        """Take the end, which the last piece has told."""


def check_streamer(streamer: Any) -> None:
    """Raise a `ValueError` for an `audio_streamer` that takes no pieces."""
    if not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise ValueError(f"`audio_streamer` must have the methods `put` and `end`, got {type(streamer).__name__}.")
