"""The voice of a session: one turn after the other, each unit with the samples of its frames, silence in between."""

from typing import Any

import torch

from ..codecs.decoder_stream import align_weights, open_decoder
from ..outputs import HeardToken
from ..talker.decoding import CodeSampler
from ..talker.speech_stream import SpeechStream

_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p")


class VoiceTurn:
    """A turn that is being said.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): Speaks.
        codec: Decodes; one that goes on where it stopped.
        speaker_ids (`torch.LongTensor`, *optional*): `(1,)`, the voice.
        options (`dict`): Of [`SpeechStream`] and [`CodeSampler`].
        seed (`int`): Of what is drawn.
    """

    def __init__(self, talker: Any, codec: Any, speaker_ids: torch.Tensor | None, options: dict[str, Any], seed: int):
        align_weights(codec)
        sampler = CodeSampler(**{name: options[name] for name in _SAMPLING if name in options})
        kept = {name: value for name, value in options.items() if name not in (*_SAMPLING, "sentence_end_ids")}
        self.sentence_end_ids = tuple(options.get("sentence_end_ids") or ())
        self.stream = SpeechStream(talker, 1, sampler, speaker_ids, seed=seed, **kept)
        self.decoder = open_decoder(codec)
        self.frames: list[torch.Tensor] = []  # of the current unit, each `(num_quantizers,)`
        self.token_ids: list[int] = []  # those that are spoken
        self.num_heard = 0  # of them, in units before
        self.is_text_over = False

    @property
    def num_frames(self) -> int:
        """Frames so far."""
        return self.stream.rows[0].num_frames

    @property
    def is_over(self) -> bool:
        """Whether all of it was said."""
        return self.stream.is_done

    @property
    def is_limited(self) -> bool:
        """Whether it was ended before its end, as it may not be longer."""
        return self.stream.rows[0].is_cut or self.stream.rows[0].is_limited

    def add(self, token: int, state: torch.Tensor | None, embeds: torch.Tensor) -> None:
        """Append a token to the text; `state` and `embeds` are `(1, 1, hidden_size)`."""
        ends = torch.tensor([[token in self.sentence_end_ids]])
        self.token_ids.append(token)
        self.stream.put(state, embeds, ends_sentence=ends)

    def end_text(self) -> None:
        """Take the end of the text."""
        self.is_text_over = True
        self.stream.close()

    def make_frames(self, num_frames: int) -> bool:
        """Make frames up to so many in this unit; return whether more text is needed for them."""
        if len(self.frames) < num_frames:
            for frame in self.stream.frames():
                self.frames.append(frame.codes[0])
                if len(self.frames) == num_frames:
                    self.stream.end_said()  # which nothing may ask for afterwards
                    break
        return len(self.frames) < num_frames and not self.is_text_over and not self.stream.is_done

    def take_samples(self) -> torch.Tensor | None:
        """Return the samples of the unit's frames, `(channels, num_samples)`; `None` where it has none."""
        frames, self.frames = self.frames, []
        return self.decoder.push(torch.stack(frames, dim=1)) if frames else None

    def take_heard(self, start: float, frame_rate: float) -> list[HeardToken]:
        """Return the tokens that ended in this unit.

        Args:
            start (`float`): Seconds at which the turn began.
            frame_rate (`float`): Frames a second.
        """
        times = self.stream.rows[0].times
        new = list(zip(self.token_ids, times, strict=False))[self.num_heard :]
        self.num_heard = len(times)
        return [HeardToken(token, start + begin / frame_rate, start + end / frame_rate) for token, (begin, end) in new]
