"""Turns of a speaker: where speech begins and ends in a stream of audio."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ...processing_josie.resampling import StreamResampler
from ..media import PCM_RATE
from .voice_activity import CHUNK, SAMPLING_RATE, load_voice_activity

_SPEECH_CHUNKS = 5  # in a row that make speech, 160 ms: a click is shorter
_HYSTERESIS = 0.15  # below the threshold, under which speech pauses
_CHUNK_MS = 1000 * CHUNK / SAMPLING_RATE


@dataclass(frozen=True)
class TurnSettings:
    """Settings of `server_vad`, with OpenAI's defaults.

    Args:
        threshold (`float`): Probability from which on a chunk has speech.
        prefix_padding_ms (`int`): Audio before speech that belongs to the turn.
        silence_duration_ms (`int`): Silence that ends it.
        create_response (`bool`): Whether an answer follows it.
        interrupt_response (`bool`): Whether its beginning cancels an answer.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True)
class ModelTurns:
    """Settings of turns that the model takes by itself, while it listens.

    Args:
        speak_bias (`float`): Below 0 it speaks less readily, above 0 more readily.
    """

    speak_bias: float = 0.0


@dataclass(frozen=True)
class Edge:
    """A beginning or an end of speech.

    Args:
        kind (`"started"` or `"stopped"`): Which of them.
        place (`int`): Where, in samples at 24 kHz from the first one.
        speech_end (`int`, *optional*): Of an end: where the silence begins that told it.
    """

    kind: Literal["started", "stopped"]
    place: int
    speech_end: int | None = None


class TurnDetector:
    """Hears one stream, chunk by chunk.

    Args:
        settings ([`TurnSettings`]): Of turns.
        place (`int`): Samples of the stream that came before.
    """

    def __init__(self, settings: TurnSettings, place: int = 0):
        self.settings = settings
        self.is_speech = False
        self._model = load_voice_activity()
        self._state = self._model.start()
        self._resampler = StreamResampler(PCM_RATE, SAMPLING_RATE)
        self._rest = np.zeros(0, np.float32)
        self._origin, self._num_chunks = place, 0
        self._num_loud = 0  # chunks in a row
        self._begin = 0  # chunk with which they began
        self._silence_begin: int | None = None

    def push(self, samples: np.ndarray) -> Iterator[Edge]:
        """Give the edges in more audio.

        Args:
            samples (`np.ndarray`): `(num_samples,)`, float32 at 24 kHz.
        """
        self._rest = np.concatenate((self._rest, self._resampler.push(samples[None])[0]))
        while len(self._rest) >= CHUNK:
            chunk, self._rest = self._rest[:CHUNK], self._rest[CHUNK:]
            probability, self._state = self._model(torch.from_numpy(chunk.copy()), self._state)
            edge = self._judge(probability)
            self._num_chunks += 1
            if edge is not None:
                yield edge

    def _judge(self, probability: float) -> Edge | None:
        """Return the edge that a chunk makes, if any."""
        threshold = self.settings.threshold - (_HYSTERESIS if self._num_loud else 0)
        is_loud = probability >= max(threshold, 0.01)
        if is_loud and not self._num_loud and not self.is_speech:
            self._begin = self._num_chunks
        self._num_loud = self._num_loud + 1 if is_loud else 0
        if not self.is_speech:
            if self._num_loud < _SPEECH_CHUNKS:
                return None
            self.is_speech, self._silence_begin = True, None
            return Edge("started", max(self._place(self._begin) - self._padding, self._origin))
        if is_loud:
            self._silence_begin = None
            return None
        self._silence_begin = self._num_chunks if self._silence_begin is None else self._silence_begin
        silence_ms = (self._num_chunks + 1 - self._silence_begin) * _CHUNK_MS
        if silence_ms < self.settings.silence_duration_ms:
            return None
        self.is_speech = False
        return Edge("stopped", self._place(self._num_chunks + 1), self._place(self._silence_begin))

    def _place(self, chunk: int) -> int:
        return self._origin + chunk * CHUNK * PCM_RATE // SAMPLING_RATE

    @property
    def _padding(self) -> int:
        return self.settings.prefix_padding_ms * PCM_RATE // 1000

    def stop(self) -> None:
        """End speech without an edge, as somebody else ended the turn."""
        self.is_speech, self._num_loud, self._silence_begin = False, 0, None
