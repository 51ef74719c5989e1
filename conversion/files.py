"""Files and folders that appear under their names only when they are complete."""

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LONGEST_PREFIX = 100  # bytes of a name that a temporary one begins with, which is to be no longer than names may be
# Of a disk, whatever is written to it: full, over a quota or a size, or read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def require_new(path: Path, argument: str) -> None:
    """Raise a `ValueError` that names `argument` if `path` exists and is anything but an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`{argument}` must not exist or be an empty folder, got {str(path)!r}.")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file becomes `path` when the block ends well and disappears when it does not.

    A link stays, and what it names is replaced; a pipe or a device stays too, and is written into.

    Args:
        path (`Path`): The file to make or replace; its folder exists.

    Raises:
        `OSError`: It cannot be written; it names `path`, and no file that nobody gave.
    """
    target = _follow(path)
    is_stream = target.exists() and not target.is_file() and not target.is_dir()
    with _scratch(path, Path(tempfile.gettempdir()) if is_stream else target.parent) as scratch:
        unfinished = scratch / target.name
        yield unfinished
        if is_stream:
            _pour(unfinished, target, path)
        else:
            os.replace(unfinished, target)


def _pour(file: Path, target: Path, path: Path) -> None:
    """Write a file into a pipe or device; errors of it are told of `path`."""
    with file.open("rb") as content:
        try:
            with target.open("wb") as stream:
                shutil.copyfileobj(content, stream)
        except OSError as error:
            raise _unwritable(error, path, "path") from error


def _follow(path: Path) -> Path:
    """Return the absolute path of what a link names in the end, be it there or not."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()


@contextmanager
def _scratch(path: Path, parent: Path, argument: str = "path") -> Iterator[Path]:
    """Make a folder for what becomes `path`; errors of files in it are told of `path`, as `argument`."""
    prefix = f".{path.name}." if len(os.fsencode(path.name)) <= _LONGEST_PREFIX else "."
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        yield scratch
    except OSError as error:
        if not _is_of(error, scratch):
            raise
        raise _unwritable(error, path, argument) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch)


def _unwritable(error: OSError, path: Path, argument: str) -> OSError:
    """Return an error of the same number that names what the user knows."""
    reason = error.strerror if error.errno is None else os.strerror(error.errno)
    return OSError(error.errno, f"`{argument}` must be writable: {reason}", str(path))


def _is_of(error: OSError, scratch: Path | None) -> bool:
    """Return whether an error is of a scratch folder that cannot be made, a file in it, or its disk."""
    if scratch is None or (error.errno in DISK_ERRORS and error.filename is None):
        return True
    if error.errno is None:
        return False
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]
    return any(Path(name).absolute() == scratch or scratch in Path(name).absolute().parents for name in names)


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

    Its files can be read by whom the umask lets, also those of libraries that let nobody but their owner.

    Args:
        path (`Path`): The folder to make; it may exist if it is empty. A link stays, and what it names is made.
        argument (`str`): What the user calls it, for the message.

    Raises:
        `ValueError`: There is something under that name.
        `OSError`: It cannot be written, as on a full disk; it names `argument` and `path`.
    """
    require_new(path, argument)
    target = _follow(path)
    if path.name in ("", "..") or Path.cwd() in (path.absolute(), target):
        raise ValueError(f"`{argument}` must be the name of a folder to make, got {str(path)!r}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error, path, argument) from error
    with _scratch(path, target.parent, argument) as scratch:
        unfinished = scratch / target.name
        unfinished.mkdir()
        with _disk_errors():
            yield unfinished
        _open_to_umask(unfinished)
        if target.exists():
            target.rmdir()
        os.replace(unfinished, target)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn what safetensors says of a disk that is full into what the system says."""
    try:
        yield
    except Exception as error:
        number = next((number for number in DISK_ERRORS if f"(os error {number})" in str(error)), None)
        if isinstance(error, OSError) or number is None:
            raise
        raise OSError(number, os.strerror(number)) from error


def _open_to_umask(folder: Path) -> None:
    """Give files the rights that new ones have, by those of the new folder; none are taken away."""
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode | rights != mode:  # not every disk has rights to give
            path.chmod(stat.S_IMODE(mode) | rights)
