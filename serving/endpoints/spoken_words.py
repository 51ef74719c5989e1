"""Words of a speech with the times at which they are heard."""

from collections.abc import Callable
from typing import Any

from ..token_stream import Piece


class SpokenWords:
    """Words that grow out of tokens.

    Args:
        decode (`Callable`): Gives the text of tokens.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._tokens: list[int] = []
        self._open: dict[str, Any] | None = None

    def add(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the words that a piece completes, each with `word`, `start` and `end` in seconds."""
        self._tokens += piece.tokens
        done = []
        for time in piece.word_times:
            text = self._decode(self._tokens[: time.token + 1])
            before = self._decode(self._tokens[: time.token])
            new = text[len(before) :]
            if self._open is None or new[:1].isspace():
                done += self._close()
                self._open = {"word": "", "start": round(time.begin, 4), "end": 0.0}
            self._open["word"] += new
            self._open["end"] = round(time.end, 4)
        return done + (self._close() if piece.is_final else [])

    def _close(self) -> list[dict[str, Any]]:
        word, self._open = self._open, None
        if word is None or not word["word"].strip():
            return []
        return [word | {"word": word["word"].strip()}]
