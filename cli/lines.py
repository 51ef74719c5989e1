"""Lines of a conversation: from the keyboard, with a history, or from a pipe."""

import codecs
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .shared import is_terminal, keep_bytes, report, require_input

_MAX_LINES = 1000


def history_file() -> Path:
    """Return the file of earlier lines, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "josie" / "chat_history"


def strip_lines(stream: TextIO) -> Generator[str]:
    """Yield the lines of a stream, stripped, and the first without a byte order mark.

    Args:
        stream (`TextIO`): Bytes that are not UTF-8 become surrogates in it.
    """
    keep_bytes(stream)
    mark = codecs.BOM_UTF8.decode(stream.encoding or "utf-8", "surrogateescape")
    for index, line in enumerate(stream):
        yield line.removeprefix(mark if index == 0 else "").strip()


def read_lines(keeps_history: bool) -> Generator[str]:
    """Yield stripped lines until the end of input; on a terminal Ctrl-C ends them too.

    Bytes that are not UTF-8 are surrogates in them, as in the names of files.

    Args:
        keeps_history (`bool`): Whether the lines of a terminal are kept in [`history_file`].

    Raises:
        `ValueError`: Standard input is closed.
    """
    require_input("the lines of a conversation")
    if not is_terminal(sys.stdin):
        yield from strip_lines(sys.stdin)
        return
    keep_bytes(sys.stdin)
    with _editing(history_file() if keeps_history else None):
        while True:
            try:
                line = input("> ")
            except (EOFError, KeyboardInterrupt):
                report("")
                return
            yield line.strip()


@contextmanager
def _editing(file: Path | None) -> Iterator[None]:
    """Make arrow keys edit lines and bring earlier ones back, also those of a file, where Python has readline."""
    try:
        import readline
    except ImportError:  # on Windows
        yield
        return
    readline.set_auto_history(True)
    try:
        if file is not None and file.is_file():
            readline.read_history_file(file)
    except OSError as error:
        report(f"Earlier lines cannot be read: {error}.")
    try:
        yield
    finally:
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                readline.set_history_length(_MAX_LINES)
                readline.write_history_file(file)
            except OSError as error:
                report(f"The lines cannot be kept: {error}.")
