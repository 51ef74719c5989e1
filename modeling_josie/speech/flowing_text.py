"""Text that flows in: tokens of its words as soon as they cannot change any more."""

import asyncio
import concurrent.futures
import re
from collections.abc import AsyncIterable, Iterator
from typing import Any

from transformers.utils import logging

from ...configuration_josie.unicode_text import require_unicode
from .streamers import StreamClosedError

logger = logging.get_logger(__name__)

# A word ends before white space, and before the punctuation of languages that are written without spaces.
_WORD_BOUNDARY = re.compile(r"(?=\s)|(?<![、。，！？…」])(?=[、。，！？…」])")
_LONGEST_MEMORY = 2000  # characters that are tokenized again with every word, before the beginning is let go


class FlowingText:
    """Tokens of a text that comes in pieces, the same as of the text at once.

    Words are given when the next one has begun, since a tokenizer may join what stands in one word.

    Args:
        tokenizer: Of transformers.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.has_words = False
        self._text = ""
        self._ids: list[int] = []  # of the first characters of the text, which were given
        self._num_given = 0
        self._has_warned = False

    def add(self, text: str) -> list[int]:
        """Append text; return the tokens of the words that it completes."""
        self.has_words = self.has_words or bool(text.strip())
        self._text += text
        *words, _ = _WORD_BOUNDARY.split(self._text)
        return self._give("".join(words).rstrip())

    def finish(self) -> list[int]:
        """Return the remaining tokens."""
        return self._give(self._text)

    def _tokenize(self, text: str) -> list[int]:
        # What looks like a special token in the text is said as it is written.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] if text else []

    def _give(self, text: str) -> list[int]:
        if len(text) == self._num_given:
            return []
        ids = self._tokenize(text)
        if ids[: len(self._ids)] != self._ids and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "`tokenizer` joins words: the tokens of a text that flows in are not those of the text at once."
            )
        new, self._ids, self._num_given = ids[len(self._ids) :], ids, len(text)
        if len(text) > _LONGEST_MEMORY:
            self._forget(text)
        return new

    def _forget(self, text: str) -> None:
        """Forget all but the last quarter of what was given, where its tokens are the same without the rest."""
        last = len(text) - _LONGEST_MEMORY // 4
        begin = next((match.start() for match in _WORD_BOUNDARY.finditer(text, last)), None)
        if begin is None:
            return
        ids = self._tokenize(text[begin:])
        if ids and self._ids[-len(ids) :] == ids:
            self._text, self._ids, self._num_given = self._text[begin:], ids, len(text) - begin


class AwaitedText(Iterator[Any]):
    """An asynchronous iterable, for the threads that make speech: each waits for what its event loop gives.

    Args:
        text (`AsyncIterable`): Gives strings in the loop that runs now.

    Raises:
        `ValueError`: No loop runs, or what it gives is asked for in its own thread, which would wait for itself.
    """

    def __init__(self, text: AsyncIterable):
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise ValueError("`text` must not be asynchronous where no event loop runs.") from error
        self._texts = aiter(text)
        self._lock = asyncio.Lock()
        self._waiting: concurrent.futures.Future | None = None
        self._is_closed = False

    def __next__(self) -> Any:
        if asyncio._get_running_loop() is self._loop:
            raise ValueError("Pieces of an asynchronous `text` must be taken by `async for`, got `for`.")
        self._waiting = asyncio.run_coroutine_threadsafe(self._take(), self._loop)
        if self._is_closed:
            self._waiting.cancel()
        try:
            has_more, value = self._waiting.result()
        except concurrent.futures.CancelledError as error:
            raise StreamClosedError("The pieces were closed: nobody waits for the rest of `text`.") from error
        if not has_more:
            raise StopIteration
        return value

    async def _take(self) -> tuple[bool, Any]:
        async with self._lock:
            try:
                return True, await anext(self._texts)
            except StopAsyncIteration:
                return False, None

    def close(self) -> None:
        """Wait no longer, and close the text where it can be."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.cancel()
        if hasattr(self._texts, "aclose") and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._close_text(), self._loop)

    async def _close_text(self) -> None:
        async with self._lock:
            await self._texts.aclose()  # type: ignore[attr-defined]


def iterate_text(text: Any) -> Iterator[str]:
    """Give the strings of an iterable; a string is one of them.

    Raises:
        `ValueError`: It gives something else, or halves of surrogate pairs, also where a pair is cut in two.
    """
    for piece in [text] if isinstance(text, str) else text:
        if not isinstance(piece, str):
            raise ValueError(f"`text` must give strings, got {type(piece).__name__}.")
        require_unicode("text", piece)
        yield piece
