"""Takers of what generation makes: tokens become text, samples become chunks, both become pieces of an answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.generation.streamers import BaseStreamer

from ..modeling_josie.outputs import WordTime
from .jobs import Job
from .pace import Clock

_UNFINISHED = "\ufffd"  # stands for bytes that are no whole character yet


@dataclass
class Piece:
    """Something new of an answer.

    Args:
        tokens (`list[int]`): That were written.
        text (`str`): Of them, and of those before that were no whole characters.
        samples (`np.ndarray`): `(num_samples,)`, float32, that were made.
        word_times (`list[WordTime]`): Of the tokens whose last sample is among them.
        num_prompt_tokens (`int`): Tokens that were read, in the last piece.
        is_final (`bool`): Whether nothing follows.
        is_cut (`bool`): Whether the answer or its speech ended because it may not be longer, in the last piece.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    word_times: list[WordTime] = field(default_factory=list)
    num_prompt_tokens: int = 0
    is_final: bool = False
    is_cut: bool = False

    @property
    def finish_reason(self) -> str:
        """Reason for the end, in the word of OpenAI's protocol: `"stop"`, or `"length"` where it was cut."""
        return "length" if self.is_cut else "stop"


class TextDeltas:
    """Text of tokens as they come: what is given never changes.

    Args:
        decode (`Callable`): Gives the text of tokens.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._tokens: list[int] = []
        self._given = ""

    def add(self, tokens: list[int], is_final: bool = False) -> str:
        """Return the text that tokens add."""
        self._tokens += tokens
        text = self._decode(self._tokens)
        if text.endswith(_UNFINISHED) and not is_final:
            return ""
        new = text[len(self._given) :] if text.startswith(self._given) else ""
        self._given += new
        return new


class TokenTaker(BaseStreamer):
    """A streamer of transformers that hands on each token of one row, and not its prompt.

    Args:
        take (`Callable`): Takes `list[int]`.
    """

    def __init__(self, take: Callable[[list[int]], Any]):
        self._take, self._has_prompt = take, False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then tokens."""
        if self._has_prompt:
            self._take(value.reshape(-1).tolist())
        self._has_prompt = True

    def end(self) -> None:
        """Take the end, which is told by who generates."""


class SpeechTaker:
    """A streamer of speech that makes [`Piece`]s for a client.

    Args:
        job ([`Job`]): Takes each piece.
        decode (`Callable`): Gives the text of tokens.
        clock ([`Clock`], *optional*): Notes how fast speech comes.
    """

    def __init__(self, job: Job, decode: Callable[[list[int]], str], clock: Clock | None = None):
        self._job, self._clock = job, clock
        self._deltas = TextDeltas(decode)

    def _new(self, **values: Any) -> None:
        self._job.put(Piece(**values))

    def put(self, piece: Any) -> None:
        """Take a [`SpeechPiece`]."""
        tokens = piece.sequences[0].tolist()
        samples = piece.audio_values[0, :, : int(piece.audio_lengths[0])].float().mean(dim=0).cpu().numpy()
        times = [] if piece.word_times is None else piece.word_times[0]
        self._note(samples, piece.sampling_rate)
        if tokens or len(samples):
            self._new(tokens=tokens, text=self._deltas.add(tokens), samples=samples, word_times=times)

    def end(self) -> None:
        """Take the end, which [`SpeechTaker.finish`] tells."""

    def take_tokens(self, tokens: list[int]) -> None:
        """Take tokens that were written."""
        self._new(tokens=tokens, text=self._deltas.add(tokens))

    def take_samples(self, samples: np.ndarray, word_times: list[Any], sampling_rate: int) -> None:
        """Take samples that were made.

        Args:
            samples (`np.ndarray`): `(num_samples,)`, float in [-1, 1].
            word_times (`list[WordTime]`): Of the tokens that end in them.
            sampling_rate (`int`): In Hz.
        """
        self._note(samples, sampling_rate)
        self._new(samples=samples, word_times=word_times)

    def finish(self, num_prompt_tokens: int, is_cut: bool) -> None:
        """Give the last piece."""
        self._new(text=self._deltas.add([], True), num_prompt_tokens=num_prompt_tokens, is_cut=is_cut, is_final=True)

    def _note(self, samples: np.ndarray, sampling_rate: int) -> None:
        if self._clock is not None and len(samples):
            self._clock.add(len(samples) / sampling_rate, self._job.paused, self._job.ticket.waited)
