"""Places on the disk that a command is told to fill: whether they can be made, and whether another run has them."""

import errno
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Literal

logger = logging.getLogger("josie.examples.places")
LOCK_FILE = ".lock"
_LONGEST_OWNER = 300  # bytes
_HELD: dict[str, int] = {}  # open files of this process, which has them until it ends


def require_place(path: str | Path, argument: str, kind: Literal["folder", "file"] = "folder") -> None:
    """Raise a `ValueError` that names `argument` unless a folder or file can be made under a name, or is there.

    It is tried in the nearest folder that there is, and nothing is left of the trial.

    Args:
        path (`str` or `Path`): The name.
        argument (`str`): What the user calls it.
        kind (`"folder"` or `"file"`): What is to be made.
    """
    place = Path(path).absolute()
    allowed, got = f"`{argument}` must be the name of a {kind}", f"got {str(path)!r}"
    given = f"{allowed} that can be written, {got}"
    if not str(path) or "\0" in str(path):
        raise ValueError(f"{given}.")
    try:
        if place.is_dir() if kind == "file" else place.exists() and not place.is_dir():
            raise ValueError(f"{allowed}, {got}, a {'folder' if kind == 'file' else 'file'}.")
        nearest = place.parent if kind == "file" else place
        while not nearest.exists():
            nearest = nearest.parent
        tempfile.TemporaryDirectory(prefix=".", dir=nearest).cleanup()
    except OSError as error:
        raise ValueError(f"{given}: {error.strerror}.") from error


def make_folder(path: str | Path, argument: str) -> Path:
    """Make a folder, if it is not there, and return it.

    Args:
        path (`str` or `Path`): Its name.
        argument (`str`): What the user calls it.

    Raises:
        `ValueError`: As of [`require_place`].
    """
    require_place(path, argument)
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def hold_folder(folder: Path, argument: str) -> None:
    """Keep a folder for this process until it ends, in whatever way.

    Where the disk knows no locks, as some of a network, nothing is kept.

    Args:
        folder (`Path`): There is one of that name.
        argument (`str`): What the user calls it.

    Raises:
        `ValueError`: Another process has it, or nothing can be written there.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    path = folder / LOCK_FILE
    held = _HELD.get(str(path.absolute()))
    if held is not None and path.exists() and os.path.samestat(path.stat(), os.fstat(held)):
        return  # closed, even under another name, a file would be nobody's
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be the name of a folder that can be written, got {str(folder)!r}: {error.strerror}."
        ) from error
    try:
        # Not `flock`, which children of a process that was killed keep for some seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(file, _LONGEST_OWNER).decode(errors="replace").strip()
        os.close(file)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(
                f"`{argument}` must be a folder that no other run has, got {str(folder)!r}, which process {owner} has."
            ) from error
        logger.info(f"Another run in {folder} would not be noticed: its disk has no locks ({error.strerror}).")
        return
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()} on {socket.gethostname()}\n".encode())
    if held is not None:
        os.close(held)
    _HELD[str(path.absolute())] = file
