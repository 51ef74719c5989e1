"""Standard output that takes every character, and whose failure loses nothing but itself."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ESCAPES = "josie.escape"  # the name of an error handler of codecs
_PLAIN_HANDLERS = ("strict", "surrogateescape")  # what Python chooses by itself


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Give bytes that are not UTF-8 as they are, and escapes of other characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    is_byte = "\udc80" <= error.object[error.start] <= "\udcff"
    first = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    return codecs.lookup_error("surrogateescape" if is_byte else "backslashreplace")(first)


codecs.register_error(_ESCAPES, _escape)


class _Output(io.RawIOBase):
    """A binary stream that keeps its first error; what comes after it is lost.

    Args:
        stream: Where it is written.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._stream.write(data)
                self._stream.flush()
            except OSError as error:
                self.error = error
                # What waits in the stream would fail once more at the end of the process.
                with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), self.fileno())
        return len(data)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Make the block go on where standard output cannot be written, or lacks a character; see [`require_output`]."""
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper):
        yield
        return
    errors = _ESCAPES if before.errors in _PLAIN_HANDLERS else before.errors
    before.flush()
    buffered = {"line_buffering": before.line_buffering, "write_through": before.write_through}
    sys.stdout = io.TextIOWrapper(_Output(before.buffer), before.encoding, errors, **buffered)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = before


def require_output() -> None:
    """Raise an error where something that was printed on standard output could not be written.

    Raises:
        `ValueError`: The reason.
        `SystemExit`: Its reader has left, as `head` does, and expects no word of it; with 1.
    """
    if sys.stdout is None:
        return
    sys.stdout.flush()
    output = getattr(sys.stdout, "buffer", None)
    if isinstance(output, _Output) and output.error is not None:
        if isinstance(output.error, BrokenPipeError):
            raise SystemExit(1) from output.error
        raise ValueError(f"Standard output must be writable: {output.error.strerror}.") from output.error
