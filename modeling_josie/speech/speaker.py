"""Speaking while writing: tokens of an answer in, codes and samples out, as soon as both can be made.

[`Speaker`] is fed by generation itself: transformers hands it each token (it is a streamer), and the Thinker the state
of each token that it has read. From there a token goes to the Talker's stream, a frame to the codec's. All of it is
deterministic in the order of the tokens, so whoever takes the pieces one by one gets what whoever takes them together
gets.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from ..codecs.adapters import decode_audio
from ..codecs.decoder_stream import RowDecoder, can_stream
from ..talker.speech_stream import SpeechStream


@dataclass
class SpeechPiece:
    """What is new of an answer.

    Args:
        sequences (`torch.LongTensor`): `(batch, num_tokens)`, tokens that were written.
        audio_values (`torch.FloatTensor`): `(batch, channels, num_samples)`; 0 past a row's end.
        audio_lengths (`torch.LongTensor`): `(batch,)`, samples of each row.
        sampling_rate (`int`): Of `audio_values`, in Hz.
        is_final (`bool`): Whether nothing follows.
    """

    sequences: torch.Tensor
    audio_values: torch.Tensor
    audio_lengths: torch.Tensor
    sampling_rate: int
    is_final: bool = False


class Speaker(BaseStreamer):
    """Says an answer while it is written.

    Args:
        stream ([`SpeechStream`]): The Talker's side.
        codec: The audio codec; one that cannot go on where it stopped decodes when all is said.
        embed (`Callable`): Gives the embeddings of token ids.
        reads_states (`bool`): Whether the Talker waits for the Thinker's states.
        is_spoken (`Callable`): Says of `(batch, num_tokens)` ids which are words.
        end_ids (`set[int]`): Tokens that end a row.
        sentence_end_ids (`Iterable[int]`): Tokens behind which a long text may be cut.
        streamer (`BaseStreamer`, *optional*): Another that is to have the tokens.
        on_piece (`Callable`, *optional*): Takes each [`SpeechPiece`].
    """

    def __init__(
        self,
        stream: SpeechStream,
        codec: Any,
        embed: Callable[[torch.Tensor], torch.Tensor],
        reads_states: bool,
        is_spoken: Callable[[torch.Tensor], torch.Tensor],
        end_ids: set[int],
        sentence_end_ids: Iterable[int] = (),
        streamer: BaseStreamer | None = None,
        on_piece: Callable[[SpeechPiece], None] | None = None,
    ):
        self.stream, self.codec, self.embed, self.reads_states = stream, codec, embed, reads_states
        self.is_spoken, self.streamer, self.on_piece = is_spoken, streamer, on_piece
        self.end_ids, self.sentence_end_ids = set(end_ids), set(sentence_end_ids)
        self.num_rows = len(stream.rows)
        self.device = stream.start.device
        self.codes: list[list[torch.Tensor]] = [[] for _ in range(self.num_rows)]
        self.samples: list[list[torch.Tensor]] = [[] for _ in range(self.num_rows)]
        self.decoders = [RowDecoder(codec) for _ in range(self.num_rows)] if can_stream(codec.config) else []
        self._finished: set[int] = set()
        self._tokens: list[torch.Tensor] = []
        self._states: list[torch.Tensor] = []
        self._num_fed = 0
        self._num_shown = 0
        self._is_over = torch.zeros(self.num_rows, dtype=torch.bool)
        self._has_prompt = self._has_prompt_state = False

    def put(self, value: torch.Tensor) -> None:
        """Take tokens from generation: the prompt first, then `(batch,)` at a time."""
        if self.streamer is not None:
            self.streamer.put(value)
        if not self._has_prompt:
            self._has_prompt = True
            return
        self.add_tokens(value.reshape(self.num_rows, 1))
        self.advance()

    def end(self) -> None:
        """Take the end of writing; what is left to say is said by [`Speaker.finish`]."""
        if self.streamer is not None:
            self.streamer.end()

    def add_tokens(self, tokens: torch.Tensor) -> None:
        """Append `(batch, num_tokens)` ids."""
        self._tokens += tokens.cpu().split(1, dim=1)

    def add_state(self, last_hidden_state: torch.Tensor) -> None:
        """Append the state of the token that was read last; the first one is the prompt's."""
        if self._has_prompt_state and self.reads_states:
            self._states.append(last_hidden_state[:, -1:])
        self._has_prompt_state = True

    @property
    def num_missing_states(self) -> int:
        """Tokens whose states are not there, of those that are spoken in any row."""
        if not self.reads_states:
            return 0
        missing = self._tokens[len(self._states) :]
        spoken = [index for index, ids in enumerate(missing) if bool((self._mask(ids) & ~self._is_over[:, None]).any())]
        return spoken[-1] + 1 if spoken else 0

    def _mask(self, ids: torch.Tensor) -> torch.Tensor:
        return self.is_spoken(ids) & ~torch.isin(ids, torch.tensor(sorted(self.end_ids)))

    @torch.no_grad()
    def advance(self) -> None:
        """Say what can be said of what is there."""
        ready = len(self._tokens) if not self.reads_states else min(len(self._tokens), len(self._states))
        while self._num_fed < ready:
            index, ids = self._num_fed, self._tokens[self._num_fed]
            self._num_fed += 1
            mask = self._mask(ids) & ~self._is_over[:, None]
            if mask.any():
                states = self._states[index] if self.reads_states else None
                cuts = torch.isin(ids, torch.tensor(sorted(self.sentence_end_ids), dtype=torch.long))
                self.stream.put(states, self.embed(ids.to(self.device)), mask, cuts)
            ended = torch.isin(ids, torch.tensor(sorted(self.end_ids)))[:, 0] & ~self._is_over
            self._is_over |= ended
            self.stream.close(ended.nonzero()[:, 0].tolist())
            self._make_frames()
        self._show()

    @torch.no_grad()
    def finish(self) -> None:
        """Say the rest: no more tokens will come."""
        self.advance()
        self.stream.close()
        self._make_frames()
        self._show(is_final=True)

    def _make_frames(self) -> None:
        for frame in self.stream.frames():
            for number in frame.rows:
                self.codes[number].append(frame.codes[number])
                if self.decoders:
                    self._keep(number, self.decoders[number].push(frame.codes[number]))
            self._end_rows()
            self._show()
        self._end_rows()

    def _end_rows(self) -> None:
        for number, row in enumerate(self.stream.rows):
            if row.is_done and self.decoders and number not in self._finished:
                self._finished.add(number)
                self._keep(number, self.decoders[number].finish())

    def _keep(self, number: int, pieces: Iterator[torch.Tensor]) -> None:
        for samples in pieces:
            self.samples[number].append(samples)

    def _show(self, is_final: bool = False) -> None:
        """Hand on what is new, and keep none of it."""
        if self.on_piece is None:
            return
        tokens = self._tokens[self._num_shown :]
        self._num_shown = len(self._tokens)
        if not (tokens or any(self.samples) or is_final):
            return
        values, lengths = self._pad(self.samples)
        self.samples = [[] for _ in range(self.num_rows)]
        ids = torch.cat(tokens, dim=1) if tokens else torch.zeros(self.num_rows, 0, dtype=torch.long)
        rate = self.codec.config.sampling_rate
        self.on_piece(SpeechPiece(ids, values, lengths, rate, is_final))

    def _pad(self, rows: list[list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = [sum(samples.shape[-1] for samples in row) for row in rows]
        like = next((samples for row in rows for samples in row), torch.zeros(1, 0))
        values = like.new_zeros(len(rows), like.shape[0], max(lengths))
        for number, row in enumerate(rows):
            if row:
                values[number, :, : lengths[number]] = torch.cat(row, dim=-1)
        return values, torch.tensor(lengths, device=values.device)

    def collect(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return waveforms `(batch, channels, num_samples)`, their lengths `(batch,)`, and codes
        `(batch, num_quantizers, num_frames)`, all that was said."""
        num_frames = torch.tensor([len(row) for row in self.codes], device=self.device)
        size = self.num_rows, self.stream.config.num_quantizers, max(1, int(num_frames.max()))
        codes = torch.zeros(size, dtype=torch.long, device=self.device)
        for number, row in enumerate(self.codes):
            if row:
                codes[number, :, : len(row)] = torch.stack(row, dim=1)
        if self.decoders:
            return *self._pad(self.samples), codes
        return *decode_audio(self.codec, codes, num_frames), codes
