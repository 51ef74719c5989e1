"""`josie chat` on a terminal: prompt, /help, a history of lines that the next chat has, Ctrl-C and Ctrl-D."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
pytest.importorskip("readline", reason="this Python is built without readline")

SECONDS = 120  # to wait at most, on a machine that has other work
UP, END_OF_INPUT, INTERRUPT = b"\x1b[A", b"\x04", b"\x03"
READ_LINES = (
    "from josie.cli.lines import read_lines\nfor line in read_lines(True): print('got', repr(line), flush=True)"
)


class Terminal:
    """A process on a pseudo-terminal of its own.

    Args:
        arguments (`list[str]`): Of Python.
        cache (`Path`): Folder that takes the place of the user's cache.
    """

    def __init__(self, arguments, cache):
        self.master, slave = pty.openpty()
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "TERM": "xterm", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            # Ctrl-C reaches only the process whose terminal this is.
            preexec_fn=make_controlling,
        )
        os.close(slave)
        self.shown = ""

    def type(self, keys):
        """Press keys."""
        os.write(self.master, keys)

    def wait_for(self, pattern):
        """Read until a pattern is shown, and return the match; what is shown up to its end is forgotten."""
        end = time.monotonic() + SECONDS
        while (match := re.search(pattern, self.shown)) is None:
            ready, _, _ = select.select([self.master], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{pattern!r} was not shown, but {self.shown!r}"
            try:
                self.shown += os.read(self.master, 4096).decode(errors="replace").replace("\r\n", "\n")
            except OSError as error:  # the process ended
                raise AssertionError(f"{pattern!r} was not shown, but {self.shown!r}") from error
        self.shown = self.shown[match.end() :]
        return match

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def interrupt(self):
        """Press Ctrl-C until the process ends, and return its exit status.

        Python's readline sleeps on if the signal comes between its prompt and its wait.
        """
        for _ in range(SECONDS // 5):
            self.type(INTERRUPT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=5)
        return self.wait()

    def wait(self):
        """Return the exit status."""
        return self.process.wait(timeout=SECONDS)


def make_controlling():
    """Make standard input the terminal of this session, whose Ctrl-C is heard also where the tests' own is ignored."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_history(folder):
    """Return the lines that a chat has kept."""
    kept = (folder / "josie" / "chat_history").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\040", " ").strip() for line in kept if line != "_HiStOrY_V2_"]  # as libedit writes them


@pytest.mark.slow
def test_a_conversation(tiny_folder, tmp_path):
    command = ["-m", "josie", "chat", str(tiny_folder), "--max-new-tokens", "3", "--threads", "1"]
    with Terminal(command, tmp_path) as terminal:
        terminal.wait_for(r"/image FILE +show an image with the next turn\n")
        terminal.wait_for(r"An empty line sends what waits\.\n> ")
        terminal.type(b"/help\r")
        terminal.wait_for(r"/help\n(?:/\w+.*\n){6}> ")
        terminal.type(b"Hello.\r")
        terminal.wait_for(r"Hello\.\n(?:.*\n)+> ")  # the answer, and the prompt on a line of its own
        terminal.type(UP + UP)
        terminal.wait_for("/help")
        terminal.type(b"\r")
        terminal.wait_for(r"/quit +end\n> ")
        terminal.type(END_OF_INPUT)
        assert terminal.wait() == 0
    assert read_history(tmp_path) == ["/help", "Hello.", "/help"]


def test_lines_are_there_in_the_next_chat(tmp_path):
    with Terminal(["-c", READ_LINES], tmp_path) as terminal:
        terminal.wait_for("> ")
        terminal.type(b"first\r")
        terminal.wait_for("got 'first'\n> ")
        terminal.type(b"  second \r")
        terminal.wait_for("got 'second'\n> ")
        terminal.type(END_OF_INPUT)
        assert terminal.wait() == 0
    with Terminal(["-c", READ_LINES], tmp_path) as terminal:
        terminal.wait_for("> ")
        terminal.type(UP + UP)
        terminal.wait_for("first")
        terminal.type(b"!\r")
        terminal.wait_for("got 'first!'\n> ")
        assert terminal.interrupt() == 0
    assert read_history(tmp_path) == ["first", "second", "first!"]
