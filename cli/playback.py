"""Audio on a loudspeaker: files by whatever player is installed, and audio that is still being made."""

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

import numpy as np
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
# Players of float32 samples on standard input, of a rate and a number of channels.
_LIVE_PLAYERS = (
    ("paplay", "--raw", "--format=float32le", "--rate={rate}", "--channels={channels}", "--latency-msec=50"),
    ("aplay", "-q", "-t", "raw", "-f", "FLOAT_LE", "-r", "{rate}", "-c", "{channels}", "-"),
    ("play", "-q", "-t", "f32", "-r", "{rate}", "-c", "{channels}", "-"),  # SoX
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-f", "f32le", "-ar", "{rate}", "-ch_layout", "{layout}")
    + ("-i", "-"),
)
_LIVE_NAMES = ", ".join(["sounddevice (Python)", *(command[0] for command in _LIVE_PLAYERS)])

Play = Annotated[bool, typer.Option("--play", help=f"Play it too, by one of {_NAMES}.")]


def find_player(path: Path) -> list[str] | None:
    """Return the command that plays a file, without the file; `None` if no player is installed."""
    for command, endings in _PLAYERS.items():
        if (endings is None or path.suffix.lower() in endings) and shutil.which(command[0]):
            return list(command)
    return None


def require_player(play_it: bool, path: Path) -> None:
    """Raise a `ValueError` if a file is to be played and nothing can do it."""
    if play_it and path.exists() and not path.is_file():
        raise ValueError(f"`--play` must go with a regular file, which can be read again, got {str(path)!r}.")
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


def _find_audio_device() -> Any:
    """Return the module sounddevice where it is installed and finds a loudspeaker, else `None`."""
    try:
        card: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError):  # not installed, or without PortAudio
        return None
    try:
        card.query_devices(kind="output")
    except (ValueError, card.PortAudioError):  # no loudspeaker
        return None
    return card


def find_live_player() -> tuple[str, ...] | None:
    """Return the command that plays samples from its standard input, `None` if no such player is installed."""
    return next((command for command in _LIVE_PLAYERS if shutil.which(command[0])), None)


def can_play_live() -> bool:
    """Return whether audio can be played while it is made."""
    return _find_audio_device() is not None or find_live_player() is not None


def require_live_player(play_it: bool, option: str = "--play") -> None:
    """Raise a `ValueError` if audio is to be played while it is made and nothing can do it.

    Args:
        play_it (`bool`): Whether it is to be played.
        option (`str`): What asks for it, for the message.
    """
    if play_it and not can_play_live():
        raise ValueError(f"`{option}` must have a loudspeaker and one of {_LIVE_NAMES}, got none.")


class LivePlayer:
    """A player of audio that is still being made. Where it fails it says so, and the audio goes on without it.

    Args:
        sampling_rate (`int`): In Hz.
        num_channels (`int`): 1 or 2.
        option (`str`): What asks for it, for messages.

    Raises:
        `ValueError`: There is no loudspeaker, or none of this rate.
    """

    def __init__(self, sampling_rate: int, num_channels: int, option: str = "--play"):
        self._name, self._stream, self._process = "sounddevice", None, None
        card, command = _find_audio_device(), find_live_player()
        if card is not None:
            try:
                self._stream = card.OutputStream(samplerate=sampling_rate, channels=num_channels, dtype="float32")
                self._stream.start()
            except (ValueError, card.PortAudioError) as error:
                raise ValueError(
                    f"`{option}` must have a loudspeaker that takes {sampling_rate} Hz, the rate of the model's "
                    f"speech, got one that does not: {error}."
                ) from error
        elif command is not None:
            self._name = command[0]
            values = {"rate": sampling_rate, "channels": num_channels, "layout": ("mono", "stereo")[num_channels - 1]}
            arguments = [part.format(**values) for part in command]
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        else:
            raise ValueError(f"`{option}` must have a loudspeaker and one of {_LIVE_NAMES}, got none.")

    def write(self, values: np.ndarray) -> None:
        """Play `(channels, num_samples)`, float32, behind what is played; wait while there is much."""
        samples = np.ascontiguousarray(values.T, dtype="<f4")
        if self._stream is not None:
            self._stream.write(samples)
        elif self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.write(samples.tobytes())
                self._process.stdin.flush()
            except BrokenPipeError:
                self._end_process()

    def close(self) -> None:
        """Play to the end."""
        if self._stream is not None:
            self._stream.stop()
            self._stream.close()
        elif self._process is not None:
            self._end_process()

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _, errors = process.communicate()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
            report(f"{self._name} could not play: {lines[-1]}")
