"""Runs the code of a page from top to bottom, in a folder of its own, as a reader would."""

import contextlib
import io
import json
import re
import shlex
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import typer
import yaml
from doc_pages import Block
from packaging.requirements import Requirement
from serving_clients import load_engine, running
from this_tree import ROOT
from transformers import TrainingArguments
from typer.testing import CliRunner

from josie.cli.app import app
from josie.nano import find_model

# Typed into `josie chat`.
CHAT = "Hello.\n/quit\n"
# Programs that pages name and that are not ours: that they are named rightly is all that is checked.
FOREIGN = ("accelerate", "cd", "git", "mkdir", "transformers")


class PageRun:
    """The state of a page while its blocks are run: one namespace, what was printed last, and servers that it began.

    Args:
        name (`str`): Of the page, for tracebacks.
    """

    def __init__(self, name: str):
        self.name = name
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""
        self.servers = contextlib.ExitStack()
        self.port = 8000

    def run(self, block: Block) -> None:
        """Run a block, write its file, or compare it with what was printed."""
        if block.language == "python":
            self.run_python(block)
        elif block.language == "bash":
            self.printed = "".join(self.run_command(command) for command in block.commands())
        elif block.language == "text":
            assert self.printed.strip() == block.text.strip(), f"{self.name}:{block.line}"
        elif block.title:
            write_file(block)

    def run_python(self, block: Block) -> None:
        """Execute Python."""
        # Empty lines in front let a traceback name the line of the page.
        text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        code = compile("\n" * (block.line - 1) + text, self.name, "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self.namespace)
        self.printed = printed.getvalue()

    def run_command(self, command: str) -> str:
        """Run a command of ours, or check one of others; return what it printed."""
        program, *arguments = shlex.split(command, comments=True)
        if program == "josie" and arguments[0] == "serve":
            read_arguments(arguments)
            self.port = self.servers.enter_context(
                running(load_engine(find_model(Path(arguments[1])), name=arguments[1]))
            )
            return ""
        if program == "josie":
            return run_josie(arguments)
        checks = {"pip": check_pip, "make": check_make, "python": check_script}
        if program in checks:
            checks[program](arguments)
        else:
            assert program in FOREIGN, command
        return ""


def run_josie(arguments: list[str]) -> str:
    """Run a command of ours, but only read its arguments where it would need a microphone."""
    if "--mic" in arguments or ("--live" in arguments and "--in" not in arguments):
        read_arguments(arguments)
        return ""
    result = CliRunner().invoke(app, arguments, input=CHAT if arguments[0] == "chat" else None)
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result.stdout


def read_arguments(arguments: list[str]) -> None:
    """Make the command line read arguments, without doing what they say."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context(arguments[0], arguments[:1], parent=context, resilient_parsing=True)
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(command.name, list(arguments), parent=context)


def check_pip(arguments: list[str]) -> None:
    """Check that extras exist."""
    assert arguments[0] == "install", arguments
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for argument in arguments[1:]:
        if argument.startswith("-"):
            assert argument in ("-e", "--editable"), argument
            continue
        requirement = Requirement("josie" + argument[1:] if argument.startswith(".") else argument)
        extras = known if requirement.name == "josie" else metadata(requirement.name).get_all("Provides-Extra") or ()
        assert requirement.extras <= set(extras), argument


def check_make(arguments: list[str]) -> None:
    """Check that targets exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in arguments:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def check_script(arguments: list[str]) -> None:
    """Check that a script of the repository exists, and its options, and the files it is given that ship."""
    script, *rest = arguments
    assert (ROOT / script).is_file(), script
    folder = Path(script).parts[0]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py")))
    config: dict[str, Any] | None = None
    for argument in rest:
        if argument.startswith("--"):
            name = re.escape(argument[2:].replace("-", "_"))
            assert f'"{argument}"' in text or re.search(rf"\b{name}=|\"{name}\": ", text), (script, argument)
        elif argument.startswith(("examples/", "benchmarks/", "nano/", "tests/")):
            assert (ROOT / argument).exists(), argument
            if argument.endswith(".json"):
                config = json.loads((ROOT / argument).read_text(encoding="utf-8"))
        elif re.match(r"\w+(\.\w+)*=", argument):
            check_setting(argument.partition("=")[0], config, text)


def check_setting(key: str, config: dict[str, Any] | None, text: str) -> None:
    """Check that a configuration has what `--set` changes, or that what reads it knows it."""
    assert config is not None, key
    section, *names = key.split(".")
    assert section in config, key
    if not names:
        return
    field = names[-1]
    known = hasattr(TrainingArguments, field) if section == "trainer" else re.search(rf"^    {field}: ", text, re.M)
    assert known or (isinstance(config[section], dict) and field in config[section]), key


def write_file(block: Block) -> None:
    """Write a block that has a title to that file, after reading what it says."""
    if block.language == "json" and block.title.endswith(".json"):
        json.loads(block.text)
    elif block.language in ("json", "jsonl"):
        assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    path = Path(block.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
