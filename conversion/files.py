"""Files and folders that appear under their names only when they are complete."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def require_new(path: Path, argument: str) -> None:
    """Raise a `ValueError` that names `argument` if `path` exists and is anything but an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`{argument}` must not exist or be an empty folder, got {str(path)!r}.")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file becomes `path` when the block ends well and disappears when it does not.

    Args:
        path (`Path`): The file to make or replace; its folder exists.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    try:
        yield scratch / path.name
        os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch)


def write_file(path: Path, text: str) -> None:
    """Write a text file, UTF-8, that appears under its name only when it is complete."""
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any, indent: int = 2) -> None:
    """Write a file of JSON as [`write_file`] does; surrogates, of names that are not UTF-8, become JSON's escapes.

    Args:
        path (`Path`): The file to make or replace.
        values: What `json.dumps` takes; the rest is written as `str` gives it.
        indent (`int`): Spaces of a level.
    """
    text = json.dumps(values, indent=indent, ensure_ascii=False, default=str) + "\n"
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def new_folder(path: Path, argument: str = "DIR") -> Iterator[Path]:
    """Give a folder to fill, which gets the name `path` when the block ends well and disappears when it does not.

    Args:
        path (`Path`): The folder to make; it may exist if it is empty.
        argument (`str`): What the user calls it, for the message.

    Raises:
        `ValueError`: There is something under that name.
    """
    require_new(path, argument)
    if path.name in ("", "..") or path.absolute() == Path.cwd():
        raise ValueError(f"`{argument}` must be the name of a folder to make, got {str(path)!r}.")
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    try:
        unfinished = scratch / path.name
        unfinished.mkdir()
        yield unfinished
        if path.exists():
            path.rmdir()
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(scratch)
