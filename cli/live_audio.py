"""Audio of a live conversation: what the user says, from a microphone or a recording in its place, and its file."""

import importlib
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

_PATIENCE = 0.1  # seconds after which it is asked again whether it is to stop


class Source(Protocol):
    """Audio of the user, at the rate that the model hears."""

    def read(self, num_samples: int) -> np.ndarray | None:
        """Return the next samples, `(num_samples,)`; `None` at the end."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Recording:
    """A recording in place of a microphone, heard as fast as the model can; what does not fill a unit is filled up.

    Args:
        values (`np.ndarray`): `(num_samples,)`, float32, at the rate that the model hears.
        stopped (`threading.Event`): Ends it.
    """

    def __init__(self, values: np.ndarray, stopped: threading.Event):
        self._values, self._stopped, self._place = values, stopped, 0

    def read(self, num_samples: int) -> np.ndarray | None:
        """As in [`Source`]."""
        if self._stopped.is_set() or self._place >= len(self._values):
            return None
        piece = self._values[self._place : self._place + num_samples]
        self._place += num_samples
        return np.pad(piece, (0, num_samples - len(piece)))

    def close(self) -> None:
        """As in [`Source`]."""


class Microphone:
    """A microphone that hears on while the model computes.

    Args:
        sampling_rate (`int`): In Hz, that the model hears.
        stopped (`threading.Event`): Ends it.
        seconds (`float`, *optional*): How long it hears; until it is stopped when `None`.

    Raises:
        `ImportError`: sounddevice is not installed.
        `ValueError`: There is no microphone, or none of this rate.
    """

    def __init__(self, sampling_rate: int, stopped: threading.Event, seconds: float | None = None):
        card = import_sounddevice("--live")
        self._blocks: queue.Queue[np.ndarray] = queue.Queue()
        self._rest = np.zeros(0, np.float32)
        self._stopped = stopped
        self._left = None if seconds is None else round(seconds * sampling_rate)
        self.num_lost = 0  # times that samples were lost before they came here
        try:
            card.query_devices(kind="input")
        except (ValueError, card.PortAudioError) as error:
            raise ValueError(
                f"`--live` must have a microphone to listen to, or a recording by `--in`, got none: {error}."
            ) from error
        try:
            self._stream = card.InputStream(
                samplerate=sampling_rate, channels=1, dtype="float32", callback=self._take_block
            )
            self._stream.start()
        except (ValueError, card.PortAudioError) as error:
            raise ValueError(
                f"`--live` must have a microphone that gives {sampling_rate} Hz, the rate that the model hears, got "
                f"one that does not: {error}."
            ) from error

    def _take_block(self, block: np.ndarray, num_frames: int, time: Any, status: Any) -> None:
        """Take what was heard, in the thread of the device."""
        del num_frames, time
        self.num_lost += bool(status)
        self._blocks.put(block[:, 0].copy())

    @property
    def num_waiting(self) -> int:
        """Samples that were heard and not read."""
        return len(self._rest) + sum(map(len, list(self._blocks.queue)))

    def read(self, num_samples: int) -> np.ndarray | None:
        """As in [`Source`]."""
        if self._left is not None and self._left <= 0:
            return None
        while len(self._rest) < num_samples:
            if self._stopped.is_set():
                return None
            try:
                self._rest = np.concatenate((self._rest, self._blocks.get(timeout=_PATIENCE)))
            except queue.Empty:
                continue
        values, self._rest = self._rest[:num_samples], self._rest[num_samples:]
        if self._left is not None:
            self._left -= num_samples
        return values

    def close(self) -> None:
        """As in [`Source`]."""
        self._stream.stop()
        self._stream.close()


def import_sounddevice(option: str) -> Any:
    """Return the module sounddevice.

    Args:
        option (`str`): What needs it, for the message.

    Raises:
        `ImportError`: It is not installed.
        `ValueError`: It finds no PortAudio.
    """
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise ImportError(f"`{option}` needs sounddevice: `pip install josie[mic]`.") from error
    except OSError as error:
        raise ValueError(f"`{option}` must find the library PortAudio, got none: {error}.") from error


class ConversationFile:
    """An audio file of a conversation, the user on the left, JOSIE on the right.

    Args:
        path (`Path`): The file.
        input_rate (`int`): Of what the user says, in Hz.
        sampling_rate (`int`): Of what JOSIE says, and of the file, in Hz.
    """

    def __init__(self, path: Path, input_rate: int, sampling_rate: int):
        from ..processing_josie import AudioWriter
        from ..processing_josie.resampling import StreamResampler

        self.num_samples = 0  # that were written
        self._writer = AudioWriter(path, sampling_rate, 2)
        self._resampler = StreamResampler(input_rate, sampling_rate)
        self._sides = [np.zeros(0, np.float32), np.zeros(0, np.float32)]

    def write(self, user: np.ndarray, answer: np.ndarray) -> None:
        """Append what is heard at the same time.

        Args:
            user (`np.ndarray`): `(num_samples,)`, at the rate that the model hears.
            answer (`np.ndarray`): `(num_samples,)` or `(channels, num_samples)`, at the file's rate.
        """
        self._append(self._resampler.push(user[None])[0], np.atleast_2d(answer).mean(axis=0))

    def _append(self, left: np.ndarray, right: np.ndarray, is_final: bool = False) -> None:
        sides = [np.concatenate(pair) for pair in zip(self._sides, (left, right), strict=True)]
        length = (max if is_final else min)(map(len, sides))
        both = np.stack([np.pad(side[:length], (0, max(length - len(side), 0))) for side in sides])
        self._sides = [side[length:] for side in sides]
        self.num_samples += length
        self._writer.write(both)

    def __enter__(self) -> "ConversationFile":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del error, trace
        try:
            if error_type is None:
                left = self._resampler.push(np.zeros((1, 0), np.float32), is_final=True)[0]
                self._append(left, np.zeros(0, np.float32), is_final=True)
        finally:
            self._writer.close()
