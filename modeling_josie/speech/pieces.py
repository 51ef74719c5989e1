"""Pieces of an answer for who takes them one by one: in a thread, in asyncio, by a function; text that flows in."""

import asyncio
import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .speaker import SpeechPiece

_END = object()


class _ClosedError(Exception):
    """Nobody takes pieces any more."""


class SpeechPieces:
    """Iterates over the pieces of an answer that is made in a thread; closing it ends the making.

    It is an iterator, an asynchronous iterator and a context manager. What fails in the thread is raised where pieces
    are taken.

    Args:
        make (`Callable`): Makes the answer, and gives each [`SpeechPiece`] to its argument.
        max_waiting (`int`): Pieces that wait to be taken before the making pauses.
    """

    def __init__(self, make: Callable[[Callable[[SpeechPiece], None]], Any], max_waiting: int = 16):
        self._make = make
        self._pieces: queue.Queue[Any] = queue.Queue(max_waiting)
        self._is_closed = threading.Event()
        self._error: BaseException | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="josie-speech")
        self._thread.start()

    def _run(self) -> None:
        try:
            with contextlib.suppress(_ClosedError):
                self._make(self._put)
        except BaseException as error:  # raised again in the thread that takes
            self._error = error
        with contextlib.suppress(_ClosedError):
            self._put(_END)

    def _put(self, piece: Any) -> None:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=0.1)
                return
        raise _ClosedError

    def __iter__(self) -> "SpeechPieces":
        return self

    def __next__(self) -> SpeechPiece:
        piece: Any = _END if self._is_over else self._pieces.get()
        if piece is not _END:
            return piece
        self._is_over = True
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def __aiter__(self) -> "SpeechPieces":
        return self

    async def __anext__(self) -> SpeechPiece:
        piece = await asyncio.to_thread(next, self, None)
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """End the making, and forget what was not taken."""
        self._is_over = True
        self._is_closed.set()
        self._thread.join()

    async def aclose(self) -> None:
        """As [`SpeechPieces.close`]."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> "SpeechPieces":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._is_over:
            self._is_closed.set()


class PieceTaker:
    """An `audio_streamer` that calls a function with each piece.

    Args:
        take (`Callable`): The function.
    """

    def __init__(self, take: Callable[[SpeechPiece], Any]):
        self.take = take

    def put(self, piece: SpeechPiece) -> None:
        """Take a piece."""
        self.take(piece)

    def end(self) -> None:
        """Take the end, which the last piece has said."""


class FlowingText:
    """Tokens of a text that comes in pieces, the same as of the text at once.

    Words are given when the next one has begun, since a tokenizer may join what stands in one word.

    Args:
        tokenizer: Of transformers.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._text = ""
        self._ids: list[int] = []

    def add(self, text: str) -> list[int]:
        """Append text; return the tokens of the words that it completes."""
        self._text += text
        *words, _ = re.split(r"(?=\s)", self._text)  # each with the white space before it, but for the first
        return self._give("".join(words).rstrip())

    def finish(self) -> list[int]:
        """Return the remaining tokens."""
        return self._give(self._text)

    def _give(self, text: str) -> list[int]:
        # What looks like a special token in the text is said as it is written.
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] if text else []
        new, self._ids = ids[len(self._ids) :], ids
        return new


def require_text(piece: Any) -> str:
    """Return a piece of text, or raise a `ValueError` that says what came."""
    if not isinstance(piece, str):
        raise ValueError(f"`text` must give strings, got {type(piece).__name__}.")
    return piece


def iterate_text(text: Any) -> Iterator[str]:
    """Give the strings of an iterable; a string is one of them."""
    for piece in [text] if isinstance(text, str) else text:
        yield require_text(piece)
