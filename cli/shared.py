"""Voice of the command line: results on standard output, notes and one-line errors on standard error."""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from .output import lasting_output, require_output

if TYPE_CHECKING:
    from rich.table import Table

_PIPE_WIDTH = 140  # columns of a table that goes into a file or pipe


class OneLineErrors(TyperGroup):
    """Group of commands that answers every expected error with one line and exit code 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run a command and exit; with `standalone_mode=False`, return or raise instead."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        fill_closed_streams()
        try:
            with _exiting_on_signals(), lasting_output():
                code = super().main(*args, standalone_mode=False, **kwargs)
                require_output()
        except typer.Abort:
            code = 1
        except Exception as error:
            if not _is_expected(error):
                raise
            report(f"Error: {one_line(_tell(error))}")
            code = 2
        sys.exit(code or 0)


class EachOptionOnce(TyperCommand):
    """Command that refuses an option given twice, of whose values one would be passed over."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Return the arguments that are left, as the base class does.

        Raises:
            `ValueError`: An option that takes one value is given again.
        """
        if not ctx.resilient_parsing:
            given = self._parse_names(ctx, list(args))
            for name in given:
                if given.count(name) > 1:
                    raise ValueError(f"`{name}` must be given once, got {given.count(name)} times.")
        return super().parse_args(ctx, args)

    def _parse_names(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Return the names of the options with one value, as often as they are given."""
        _, _, found = self.make_parser(ctx).parse_args(args=args)
        return [
            max(option.opts, key=len)
            for option in found
            if option.param_type_name == "option" and not option.multiple and not option.is_flag
        ]


class CommandLine(typer.Typer):
    """Application, or group of commands, whose options are given once."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Return the decorator that adds a command; arguments as in typer."""
        chosen: dict[str, Any] = {"cls": EachOptionOnce} | options
        return super().command(name, **chosen)


def _tell(error: Exception) -> str:
    """Return the sentence of an expected error: the option, what it may be, and what came."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        find = getattr(error.__cause__, "errors", None)  # of pydantic, which reads the values for typer
        found = find() if find is not None else []
        if len(found) == 1 and found[0]["msg"].startswith("Input should be "):
            allowed = found[0]["msg"].removeprefix("Input should be ").partition(",")[0]
            name = max(error.param.opts, key=len) if error.param.param_type_name == "option" else error.param.metavar
            return f"`{name}` must be {allowed}, got {found[0]['input']!r}."
    if isinstance(error, OSError) and (error.strerror or "").startswith("`"):  # of `conversion.files`
        required, _, reason = error.strerror.partition(": ")
        return f"{required}, got {error.filename!r}: {reason}."
    return error.format_message() if isinstance(error, typer.TyperException) else str(error)


def _is_expected(error: Exception) -> bool:
    """Return whether an error is the user's, and not a fault of the program."""
    if isinstance(error, ImportError):
        return error.name is None  # a missing extra; an import that fails has the name of its module
    expected: tuple[type[Exception], ...] = (typer.TyperException, ValueError, OSError, MemoryError)
    # Only what has been imported can have raised its errors.
    for module, name in (
        ("huggingface_hub.errors", "StrictDataclassError"),
        ("safetensors", "SafetensorError"),
        ("torch", "OutOfMemoryError"),
        (f"{__package__.rpartition('.')[0]}.evaluation.judge", "MissingJudge"),
    ):
        if module in sys.modules:
            expected += (getattr(sys.modules[module], name),)
    return isinstance(error, expected)


def one_line(message: str) -> str:
    """Return a message without its line breaks."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def show_help(context: typer.Context) -> None:
    """Print the help of a group of commands when it is called without one."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def keep_bytes(stream: Any) -> None:
    """Make standard input pass bytes that are not UTF-8 as they are, as Python does with the names of files."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="surrogateescape")


@contextmanager
def writing_out(path: Path | None = None) -> Iterator[None]:
    """Call the file that is written `--out`, as the user does, in errors that call it `path`.

    Args:
        path (`Path`, *optional*): It, or a folder; errors of the system that name it, or a file in this folder, are
            told as errors of `--out` too.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("`path` "):
            raise
        raise ValueError(f"`--out` {str(error).removeprefix('`path` ')}") from error
    except OSError as error:
        if path is None or error.errno is None or not _is_in(error, path):
            raise
        where = os.fsdecode(error.filename)
        raise ValueError(f"`--out` must be writable, got {where!r}: {os.strerror(error.errno)}.") from error


def _is_in(error: OSError, path: Path) -> bool:
    """Return whether an error is of a path, or of a file in that folder."""
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return False
    named = Path(os.fsdecode(error.filename)).absolute()
    return path.absolute() == named or path.absolute() in named.parents


def fill_closed_streams() -> None:
    """Put the null device in the place of standard streams that are closed, which a file would get that is opened."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def is_terminal(stream: Any) -> bool:
    """Return whether a standard stream is a terminal; one that was closed before the start is `None`."""
    return stream is not None and stream.isatty()


def require_input(what: str) -> None:
    """Raise a `ValueError` where standard input was closed before the start.

    Args:
        what (`str`): What is read from it: `"the text"`.
    """
    if sys.stdin is None:
        raise ValueError(f"Standard input must be open to read {what}, got a closed one.")


def report(message: str) -> None:
    """Print a note on standard error."""
    typer.echo(message, err=True)


class _ReportHandler(logging.Handler):
    """Warnings of this package, in the voice of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        report(f"{record.levelname.capitalize()}: {one_line(record.getMessage())}")


def quieten() -> None:
    """Silence the warnings and progress bars of transformers, and show the warnings of this package as notes."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger(__package__.partition(".")[0])
    if not any(isinstance(handler, _ReportHandler) for handler in logger.handlers):
        logger.addHandler(_ReportHandler(logging.WARNING))
        logger.propagate = False


def print_table(table: "Table") -> None:
    """Print a table of rich: as wide as the terminal, or of a fixed width into a file or pipe."""
    from rich.console import Console

    Console(width=None if is_terminal(sys.stdout) else _PIPE_WIDTH).print(table)


@contextmanager
def _exiting_on_signals() -> Iterator[None]:
    """Turn signals that would kill the process into `SystemExit`, so that unfinished files disappear as on Ctrl-C."""
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _: object) -> NoReturn:
        for other in numbers:  # a process group is often told twice, which must not stop the cleaning up
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets in place of raising, so that what was heard is kept; a second one raises."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield stopped
        return

    def stop(*_: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
