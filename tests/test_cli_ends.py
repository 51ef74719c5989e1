"""Ends of the command line: signals, and standard output that lacks characters or cannot be written."""

import io
import signal
import sys
from pathlib import Path

import pytest
import typer
from test_cli import contents
from typer.testing import CliRunner

from josie.cli.output import lasting_output, require_output
from josie.cli.shared import CommandLine, OneLineErrors
from josie.conversion.files import new_folder

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Pipe(io.BytesIO):
    """A pipe whose reader has left."""

    def write(self, data):
        raise BrokenPipeError(32, "Broken pipe")


def make_app(work):
    app = CommandLine(cls=OneLineErrors)
    app.command("work")(work)
    app.callback()(lambda: None)
    return app


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_no_unfinished_files(tmp_path, number):
    before = signal.signal(number, signal.SIG_DFL)  # the terminal of the tests may have closed, and be passed over

    def work() -> None:
        with new_folder(tmp_path / "made") as unfinished:
            (unfinished / "weights").write_text("half")
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(signal.SIGTERM)  # as groups of processes are told twice

    try:
        assert CliRunner().invoke(make_app(work), ["work"]).exit_code == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert contents(tmp_path) == []


def test_signals_that_somebody_else_handles_are_left_alone():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        result = CliRunner().invoke(make_app(lambda: signal.raise_signal(signal.SIGTERM)), ["work"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("encoding", "errors", "written"),
    [
        ("cp1252", "strict", b"\xd7 \\u4f60 \xe9 \\ud83d"),
        ("ascii", "surrogateescape", b"\\xd7 \\u4f60 \xe9 \\ud83d"),
        ("utf-8", "strict", "× 你 ".encode() + b"\xe9 \\ud83d"),
        ("ascii", "ignore", b"   "),
    ],
)
def test_output_takes_every_character(monkeypatch, encoding, errors, written):
    binary = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(binary, encoding, errors))
    before = sys.stdout
    with lasting_output():
        sys.stdout.write("× 你 \udce9 \ud83d")
    assert sys.stdout is before
    assert binary.getvalue() == written


def test_a_reader_that_has_left_ends_nothing_but_the_output(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Pipe(), "utf-8"))
    with lasting_output():
        typer.echo("nobody reads it")
        (tmp_path / "reply.wav").write_text("all the same")
        typer.echo("nor this")
        with pytest.raises(SystemExit, match="1"):
            require_output()
    require_output()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    def work() -> None:
        typer.echo("text")
        (tmp_path / "reply.wav").write_text("speech")

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="2"):
            make_app(work)(["work"])
    assert capfd.readouterr().err == "Error: Standard output must be writable: No space left on device.\n"
    assert contents(tmp_path) == ["reply.wav"]
