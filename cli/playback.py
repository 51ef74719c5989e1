"""Audio files on a loudspeaker, by whatever player is installed."""

import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from .shared import report

# Players in the order in which they are looked for, and the files that each can play; `None` for all.
_PLAYERS: dict[tuple[str, ...], tuple[str, ...] | None] = {
    ("afplay",): None,  # macOS
    ("pw-play",): None,
    ("paplay",): None,
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"): None,
    ("play", "-q"): None,  # SoX
    ("aplay", "-q"): (".wav", ".au"),
}
_NAMES = ", ".join(command[0] for command in _PLAYERS)

Play = Annotated[bool, typer.Option("--play", help=f"Play it too, by one of {_NAMES}.")]


def find_player(path: Path) -> list[str] | None:
    """Return the command that plays a file, without the file; `None` if no player is installed."""
    for command, endings in _PLAYERS.items():
        if (endings is None or path.suffix.lower() in endings) and shutil.which(command[0]):
            return list(command)
    return None


def require_player(play_it: bool, path: Path) -> None:
    """Raise a `ValueError` if a file is to be played and nothing can do it."""
    if play_it and find_player(path) is None:
        raise ValueError(f"`--play` must have a player of {path.suffix} files, one of {_NAMES}, got none.")


def play(path: Path) -> None:
    """Play a file to its end, or until Ctrl-C; say why if that fails."""
    command = find_player(path)
    if command is None:
        raise ValueError(f"`--play` must have a player of {path.suffix} files, one of {_NAMES}, got none.")
    try:
        done = subprocess.run([*command, str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except KeyboardInterrupt:
        return
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
        report(f"{command[0]} could not play {path}: {lines[-1]}")
