"""Progress on a terminal: what takes time says so, and nothing is drawn where there is no terminal."""

import ast
import io
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest
from this_tree import ROOT
from typer.testing import CliRunner

from josie.cli import generate
from josie.cli.app import app
from josie.cli.progress import counting, waiting

COMMANDS = sorted((ROOT / "cli").glob("*.py"))
# Rooms and libraries that are imported at once; all others bring torch, transformers or datasets, which take seconds.
LIGHT = {"nano", "conversion.files", "evaluation.answers", "configuration_josie.units"}
HEAVY = {"torch", "transformers", "datasets", "huggingface_hub"}


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[Terminal, io.StringIO], ids=["terminal", "file"])
def stderr(request, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return request.param()


def test_a_task_is_named_while_it_runs(stderr):
    with redirect_stderr(stderr), waiting("Loading [x] nano"):
        pass
    assert ("Loading [x] nano ..." in stderr.getvalue()) is stderr.isatty()


def test_steps_are_counted(stderr):
    with redirect_stderr(stderr), counting("rows", 12) as advance:
        for _ in range(3):
            advance(4)
    assert ("rows" in stderr.getvalue() and "12/12" in stderr.getvalue()) is stderr.isatty()


def slow_imports(path: Path) -> list[str]:
    """Return imports of heavy modules in commands that come before anything is shown."""
    found = []
    for command in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(command, ast.FunctionDef) or not command.name.endswith("_command"):
            continue
        shown = [
            node
            for node in ast.walk(command)
            if isinstance(node, ast.With) and any("waiting(" in ast.unparse(item.context_expr) for item in node.items)
        ]
        first = min((node.lineno for node in shown), default=command.end_lineno or 0)
        for node in ast.walk(command):
            if isinstance(node, ast.ImportFrom):
                name = node.module or ""
                is_slow = name not in LIGHT if node.level == 2 else not node.level and name.split(".")[0] in HEAVY
            else:
                is_slow = isinstance(node, ast.Import) and bool({item.name for item in node.names} & HEAVY)
            if is_slow and node.lineno < first:
                found.append(f"{command.name}: {ast.unparse(node)}")
    return found


def test_slow_imports_are_found(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        "def a_command():\n    from ..nano import b\n    import torch\n    with waiting('x'): import datasets\n"
    )
    assert slow_imports(path) == ["a_command: import torch"]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_show_something_before_they_import_what_takes_seconds(path):
    assert not slow_imports(path)


@pytest.mark.parametrize("given", ["A ball.", "-"], ids=["argument", "standard input"])
def test_speech_in_a_stream_is_waited_for_visibly(given, monkeypatch, speaking_folder, tmp_path):
    tasks = []

    @contextmanager
    def record(task):
        tasks.append(task)
        yield

    monkeypatch.setattr(generate, "waiting", record)
    command = ["speak", str(speaking_folder), given, "--stream", "--out", str(tmp_path / "a.wav")]
    result = CliRunner().invoke(app, command, input="A ball.")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert ("Speaking" in tasks) is (given != "-")  # where text is typed, the spinner would be in its way
