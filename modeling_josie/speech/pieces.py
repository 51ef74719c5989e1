"""Pieces of speech for who takes them one by one, with `for` or `async for`, and may stop at any of them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

from ..outputs import SpeechPiece, WordTime, count_heard_tokens
from .streamers import AudioIteratorStreamer, CallbackStreamer, PieceIterator, StreamClosedError, close_at_exit

_THREAD_NAME = "josie-speech"


class SpeechPieces(PieceIterator):
    """An iterator over [`SpeechPiece`]s, also an asynchronous one and a context manager. Closing it ends the making.

    Args:
        source: An iterator with `close`.
        wait (`Callable`, *optional*): Called after the source was closed.
    """

    def __init__(self, source: Any, wait: Callable[[], Any] | None = None):
        self._source, self._wait = source, wait
        self._times: list[list[WordTime]] | None = None
        self._rate = 0

    def __next__(self) -> SpeechPiece:
        try:
            piece: SpeechPiece = next(self._source)
        except BaseException:
            if self._wait is not None:
                self._wait()
            raise
        self._rate = piece.sampling_rate
        if piece.word_times is not None:
            self._times = self._times or [[] for _ in piece.word_times]
            for row, times in zip(self._times, piece.word_times, strict=True):
                row += times
        return piece

    def spoken_until(self, num_samples: int, row: int = 0) -> int:
        """Return how many tokens of the answer so far were heard to their end, of those in the pieces taken.

        Args:
            num_samples (`int`): Samples that were played.
            row (`int`): The row.

        Raises:
            `ValueError`: There are no word times, or no piece was taken.
        """
        if self._times is None:
            raise ValueError("`word_times` must be there to know what was heard: the Talker must learn durations.")
        return count_heard_tokens(self._times[row], num_samples, self._rate)

    def close(self) -> None:
        """End the making, and forget what was not taken."""
        self._source.close()
        if self._wait is not None:
            self._wait()

    async def aclose(self) -> None:
        """As [`SpeechPieces.close`]."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> "SpeechPieces":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    async def __aenter__(self) -> "SpeechPieces":
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left by `break` must not keep a model busy. What makes pieces holds the source, not this.
        source = getattr(self, "_source", None)  # none where `__init__` was not run
        if source is not None:
            source.close()


def make_in_thread(make: Callable[[CallbackStreamer], Any], max_waiting: int = 16) -> SpeechPieces:
    """Return the pieces that a function makes, which runs in a thread of its own.

    Args:
        make (`Callable`): Gives each piece to its argument. What it raises is raised where pieces are taken.
        max_waiting (`int`): Pieces that wait to be taken before the making pauses.
    """
    streamer = AudioIteratorStreamer(max_waiting)
    thread = threading.Thread(target=_run, args=(make, streamer), daemon=True, name=_THREAD_NAME)
    thread.start()
    streamer.maker = thread
    return SpeechPieces(streamer, thread.join)


def _run(make: Callable[[CallbackStreamer], Any], streamer: AudioIteratorStreamer) -> None:
    error = None
    try:
        with contextlib.suppress(StreamClosedError):
            make(CallbackStreamer(streamer.put))
    except BaseException as raised:  # raised again in the thread that takes pieces
        error = raised
    streamer.end(error)


class _LockedIterator:
    """A generator that one thread may close while another takes from it: it ends at its next piece.

    Args:
        pieces: The generator.
        source (*optional*): What it takes from, whose `close` ends its waiting.
    """

    def __init__(self, pieces: Any, source: Any = None):
        self._pieces, self._lock, self._is_closed = pieces, threading.Lock(), False
        self._close_source = getattr(source, "close", None)
        close_at_exit(self)

    def __next__(self) -> SpeechPiece:
        with self._lock:
            if self._is_closed:
                raise StopIteration
            return next(self._pieces)

    def close(self) -> None:
        self._is_closed = True
        if self._close_source is not None:
            self._close_source()
        with self._lock:
            self._pieces.close()

    def close_at_exit(self) -> None:
        """Close, unless a thread is in the generator, which may wait for its text for ever."""
        if not self._lock.locked():
            self.close()


def take_from(pieces: Generator[SpeechPiece, None, None], source: Any = None) -> SpeechPieces:
    """Return the pieces of a generator, which runs while they are taken.

    Args:
        pieces (`Generator`): Makes them.
        source (*optional*): What it may wait for; its `close` ends that.
    """
    return SpeechPieces(_LockedIterator(pieces, source))
