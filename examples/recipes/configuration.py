"""Configurations of recipes: a JSON or YAML file in sections, changed on the command line, read as dataclasses.

    python examples/train_X.py CONFIG [--set KEY=VALUE ...] [--resume | --restart]

`--set data.seed=3` changes a single value. A run goes on from its last checkpoint if there is one; `--resume` insists
on one, and `--restart` begins anew.
"""

import argparse
import dataclasses
import json
import logging
import re
import shlex
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

Mode = Literal["continue", "resume", "restart"]
Section = TypeVar("Section")
# Errors that the user can mend.
_MENDABLE = (ValueError, RuntimeError, ImportError, OSError, DatasetsError, StrictDataclassError, SafetensorError)
# Of these torch cannot make another one in the main process; there they are a `RuntimeError`.
_REBUILT = ("UnicodeDecodeError", "UnicodeEncodeError", "JSONDecodeError")
_GRACE = 0.2  # seconds
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
# What is taken beside the hints of `TrainingArguments`.
_WIDER_HINTS = {"bf16": bool | Literal["auto"], "fsdp": bool | str | list[str] | None}


class _Loader(yaml.SafeLoader):
    """YAML, with numbers such as 1e-4, which version 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """The request of a user.

    Args:
        config (`dict`): The sections of the configuration.
        mode (`"continue"`, `"resume"` or `"restart"`): The use of checkpoints.
        command (`str`): The typed command, for the model card.
    """

    config: dict[str, Any]
    mode: Mode
    command: str


def command_line(description: str | None, argv: list[str] | None = None) -> CommandLine:
    """Read the command line of a recipe and its configuration file; wrong ones end the program with a sentence."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="JSON or YAML file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes to it")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from the last checkpoint, which must exist")
    start.add_argument("--restart", action="store_true", help="delete the checkpoints and begin anew")
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("josie").setLevel(logging.INFO)
    try:
        config = read_config(arguments.config, arguments.set)
    except ValueError as error:
        parser.error(str(error))
    mode: Mode = "resume" if arguments.resume else "restart" if arguments.restart else "continue"
    changes = ["--set", *arguments.set] if arguments.set else []
    command = shlex.join(["python", f"examples/{parser.prog}", arguments.config, *changes])
    return CommandLine(config, mode, command)


def read_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a JSON or YAML file and change single values.

    Args:
        path (`str` or `Path`): The file.
        overrides (`list[str]`): `section.key=value`, the value as JSON, as Python's True, False or None, or else as
            text.

    Raises:
        `ValueError`: No such file, no text, no mapping, or an override that names nothing it could change.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`config` must be an existing file, got {str(path)!r}.")
    try:
        config = _parse(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"`config` must be text in UTF-8, got {str(path)!r}: {error}.") from error
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"`config` must be JSON or YAML, got {str(path)!r}: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"`config` must hold named sections, got {type(config).__name__} in {str(path)!r}.")
    for override in overrides:
        name, equals, value = override.partition("=")
        *parents, key = name.split(".")
        if not equals or not all((*parents, key)):
            raise ValueError(f"`--set` must be KEY=VALUE, got {override!r}.")
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"`--set` must name a value in a section, got {name!r}: {parent!r} is no section.")
        try:
            section[key] = json.loads(value)
        except json.JSONDecodeError:
            section[key] = _PYTHON_WORDS.get(value, value)
    return config


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError:
            if text.lstrip().startswith("{"):  # what is wrong with it as JSON helps more
                raise error from None
            raise


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value may be of a hinted type; hints of other kinds than JSON has take everything."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is Literal:
        return value in inner
    if kind in (list, dict):
        items = value.values() if isinstance(value, dict) else value
        return isinstance(value, kind) and (not inner or all(_fits(item, inner[-1]) for item in items))
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_describe, get_args(hint)))
    if hint is NoneType:
        return "None"
    return hint.__name__ if hint in (bool, int, float, str, list, dict) else str(hint).replace("typing.", "")


def _list_choices(entry: dataclasses.Field, hint: Any) -> list[Any]:
    """Return all that a field may be that has choices, or is hinted as an enumeration or text; nothing for others."""
    if "choices" in entry.metadata:
        return [*entry.metadata["choices"], *([None] if NoneType in get_args(hint) else [])]
    return [member.value for one in get_args(hint) if isinstance(one, type) and issubclass(one, Enum) for member in one]


def read_section(config: dict[str, Any], name: str, section_class: type[Section], **defaults: Any) -> Section:
    """Return a section of a configuration as a dataclass.

    Args:
        config (`dict`): All sections.
        name (`str`): The section; one that is missing is empty.
        section_class: A dataclass.
        defaults: Values in place of the dataclass's own defaults.

    Raises:
        `ValueError`: The section is no mapping, has a key that the dataclass does not know, or a value of another type,
            or lacks one that has no default.
    """
    values = config.get(name, {})
    if not isinstance(values, dict):
        raise ValueError(f"`{name}` must be a section of the configuration, got {values!r}.")
    known = {entry.name: entry for entry in dataclasses.fields(section_class) if entry.init}  # type: ignore[arg-type]
    hints = get_type_hints(section_class, localns={"torch": torch}) | _WIDER_HINTS
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"`{name}` must have keys of {sorted(known)}, got {key!r}.")
        if not _fits(value, hints[key]):
            raise ValueError(f"`{name}.{key}` must be of type {_describe(hints[key])}, got {value!r}.")
        choices = _list_choices(known[key], hints[key])
        if choices and value not in choices:
            raise ValueError(f"`{name}.{key}` must be of {choices}, got {value!r}.")
    needed = [
        entry.name
        for entry in dataclasses.fields(section_class)  # type: ignore[arg-type]
        if entry.init and entry.default is entry.default_factory is dataclasses.MISSING
    ]
    for key in needed:
        if key not in defaults | values:
            raise ValueError(f"`{name}` must have the key {key!r}, got {sorted(values) or 'none'}.")
    return section_class(**defaults | values)


def require_sections(config: dict[str, Any], *names: str, within: str = "config") -> None:
    """Raise a `ValueError` for a section, of all or `within` another one, that a recipe does not know."""
    for name in config:
        if name not in names:
            raise ValueError(f"`{within}` must have sections of {list(names)}, got {name!r}.")


def describe_error(error: BaseException) -> str:
    """Return what an error says, without the traceback of the data loader's worker that it comes from.

    Of a data set that cannot be made it is what its reader says.
    """
    if isinstance(error, DatasetsError) and error.__cause__ is not None:
        return describe_error(error.__cause__)
    text = str(error) or type(error).__name__
    name = _name_in_worker(error)
    return text if name is None else re.split(rf"^(?:\w+\.)*{name}: ", text, flags=re.MULTILINE)[-1].rstrip()


def _name_in_worker(error: BaseException) -> str | None:
    """Return the name of the error of a data loader's worker that an error comes from, if it does."""
    found = re.match(r"Caught (\w+) in DataLoader worker process", str(error))
    return None if found is None else found[1]


def run(main: Callable[[], Any]) -> None:
    """Run a recipe; errors that the user can mend end it with a sentence instead of a traceback."""
    try:
        main()
    except _MENDABLE as error:
        # torch's own errors, and modules that fail to import, are for a traceback.
        is_torchs = type(error) is RuntimeError and _name_in_worker(error) not in _REBUILT
        if is_torchs or isinstance(error, ImportError) and error.name is not None:
            raise
        raise SystemExit(f"error: {describe_error(error)}") from error
    finally:
        if torch.distributed.is_initialized():
            # A thread of gloo that wants the interpreter once that ends aborts the process, now and then. Groups of
            # sharded models outlive their end, as torch keeps them: their threads get time to let go of the last work.
            torch.distributed.destroy_process_group()
            time.sleep(_GRACE)


def run_training(
    description: str | None, train_model: Callable[[CommandLine], Any], argv: list[str] | None = None
) -> None:
    """Run a training recipe.

    Args:
        description (`str`, *optional*): Help of its command line.
        train_model (`Callable`): Trains, as a [`CommandLine`] says.
        argv (`list[str]`, *optional*): The command line; that of the process when `None`.
    """
    line = command_line(description, argv)
    run(lambda: train_model(line))
