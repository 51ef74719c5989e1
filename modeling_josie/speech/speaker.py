"""Speaking while writing: tokens of an answer in, codes and samples out, as soon as both can be made.

[`Speaker`] is fed by generation itself: transformers hands it each token (it is a streamer), and the Thinker the state
of each token that it has read. From there a token goes to the Talker's stream, a frame to the codec's. All of it is
deterministic in the order of the tokens, so whoever takes the pieces one by one gets what whoever takes them together
gets.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from ...configuration_josie import audio_codec_geometry, decodes_in_stream
from ..codecs.adapters import decode_audio
from ..codecs.decoder_stream import RowDecoder
from ..outputs import JosieGenerateOutput, SpeechPiece, WordTime
from ..talker.speech_stream import SpeechStream


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
        on_piece (`Callable`, *optional*): Takes each [`SpeechPiece`]; then nothing is kept for [`Speaker.collect`].
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
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.long)
        self.sentence_end_ids = frozenset(sentence_end_ids)
        self._sentence_end_ids = torch.tensor(sorted(self.sentence_end_ids), dtype=torch.long)
        self.num_rows = len(stream.rows)
        self.codes: list[list[torch.Tensor]] = [[] for _ in range(self.num_rows)]
        self.samples: list[list[torch.Tensor]] = [[] for _ in range(self.num_rows)]
        self.decoders = [RowDecoder(codec) for _ in range(self.num_rows)] if decodes_in_stream(codec.config) else []
        geometry = audio_codec_geometry(codec.config)
        self.sampling_rate, self.hop_length, self.frame_rate = (
            geometry.sampling_rate,
            geometry.hop_length,
            geometry.frame_rate,
        )
        self.has_times = stream.config.learns_durations
        self._spoken: list[list[int]] = [[] for _ in range(self.num_rows)]  # indices of the tokens that are said
        self._finished: set[int] = set()
        self._tokens: deque[torch.Tensor] = deque()  # those that wait for their states, `(batch, 1)`
        self._states: deque[torch.Tensor] = deque()
        self._new_tokens: list[torch.Tensor] = []  # those that no piece has shown
        self._num_fed = 0
        self._num_shown_samples = [0] * self.num_rows
        self._num_shown_times = [0] * self.num_rows
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
        for _ in self.advance():
            pass

    def end(self) -> None:
        """Take the end of writing; what is left to say is said by [`Speaker.finish`]."""
        if self.streamer is not None:
            self.streamer.end()

    def add_tokens(self, tokens: torch.Tensor) -> None:
        """Append `(batch, num_tokens)` ids."""
        tokens = tokens.cpu()
        self._tokens += tokens.split(1, dim=1)
        self._new_tokens.append(tokens)

    def add_state(self, last_hidden_state: torch.Tensor) -> None:
        """Append the state of the token that was read last; the first one is the prompt's."""
        if self._has_prompt_state and self.reads_states:
            self._states.append(last_hidden_state[:, -1:])
        self._has_prompt_state = True

    def add_text(
        self, states: torch.Tensor | None, embeds: torch.Tensor, mask: torch.Tensor, input_ids: torch.Tensor
    ) -> None:
        """Append a whole text.

        Args:
            states, embeds (`torch.Tensor`): `(batch, length, hidden_size)`.
            mask (`torch.BoolTensor`): `(batch, length)`, which tokens are said.
            input_ids (`torch.LongTensor`): `(batch, length)`.
        """
        cuts = torch.isin(input_ids, self._sentence_end_ids.to(input_ids.device))
        for row, spoken in zip(self._spoken, mask.tolist(), strict=True):
            row += [self._num_fed + index for index, is_spoken in enumerate(spoken) if is_spoken]
        self._num_fed += mask.shape[1]
        self.stream.put(states, embeds, mask, cuts)

    @property
    def num_missing_states(self) -> int:
        """Tokens whose states are not there, up to the last one that is spoken in any row."""
        if not self.reads_states:
            return 0
        missing = list(self._tokens)[len(self._states) :]
        spoken = [index for index, ids in enumerate(missing) if bool(self._mask(ids).any())]
        return spoken[-1] + 1 if spoken else 0

    def _mask(self, ids: torch.Tensor) -> torch.Tensor:
        return self.is_spoken(ids) & ~torch.isin(ids, self._end_ids) & ~self._is_over[:, None]

    @torch.no_grad()
    def advance(self) -> Iterator[None]:
        """Say what can be said of what is there; yield whenever there may be a piece."""
        while self._tokens and (self._states or not self.reads_states):
            ids, state = self._tokens.popleft(), self._states.popleft() if self.reads_states else None
            mask = self._mask(ids)
            if mask.any():
                self.add_text(state, self.embed(ids.to(self.stream.device)), mask, ids)
            else:
                self._num_fed += 1
            ended = torch.isin(ids, self._end_ids)[:, 0] & ~self._is_over
            self._is_over |= ended
            self.stream.close(ended.nonzero()[:, 0].tolist())
            yield from self._make_frames()
        self._show()
        yield

    @torch.no_grad()
    def finish(self) -> Iterator[None]:
        """Say the rest, as no more tokens will come; yield as [`Speaker.advance`]."""
        yield from self.advance()
        self.stream.close()
        yield from self._make_frames()
        self._show(is_final=True)
        yield

    def _make_frames(self) -> Iterator[None]:
        for frame in self.stream.frames():
            for number in frame.rows:
                if self.on_piece is None:
                    self.codes[number].append(frame.codes[number])
                if self.decoders:
                    self._keep(number, self.decoders[number].push(frame.codes[number]))
            self._end_rows()
            if any(self.samples):
                self._show()
                yield
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
        if self.on_piece is None or not (self._new_tokens or any(self.samples) or is_final):
            return
        values, lengths = self._pad(self.samples)
        tokens = self._new_tokens or [torch.zeros(self.num_rows, 0, dtype=torch.long)]
        self.samples, self._new_tokens = [[] for _ in range(self.num_rows)], []
        for number, length in enumerate(lengths.tolist()):
            self._num_shown_samples[number] += length
        times = [self._take_times(number) for number in range(self.num_rows)] if self.has_times else None
        ids = torch.cat(tokens, dim=1)
        self.on_piece(SpeechPiece(ids, values, lengths, self.sampling_rate, is_final, times, self.stream.cut_rows))

    def _take_times(self, number: int) -> list[WordTime]:
        """Return the times of tokens that ended within the samples that are shown by now."""
        row, first, times = self.stream.rows[number], self._num_shown_times[number], []
        is_all = number in self._finished
        for token, (begin, end) in zip(self._spoken[number][first:], row.times[first:], strict=False):
            if not is_all and end * self.hop_length > self._num_shown_samples[number]:
                break
            times.append(WordTime(token, begin / self.frame_rate, end / self.frame_rate))
        self._num_shown_times[number] += len(times)
        return times

    def _pad(self, rows: list[list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = [sum(samples.shape[-1] for samples in row) for row in rows]
        like = next((samples for row in rows for samples in row), torch.zeros(1, 0, dtype=torch.float32))
        values = like.new_zeros(len(rows), like.shape[0], max(lengths))
        for number, row in enumerate(rows):
            if row:
                values[number, :, : lengths[number]] = torch.cat(row, dim=-1)
        return values, torch.tensor(lengths, device=values.device)

    def collect(self, sequences: torch.Tensor, prompt_length: int) -> JosieGenerateOutput:
        """Return all that was said.

        Args:
            sequences (`torch.LongTensor`): `(batch, length)`, prompt and answer.
            prompt_length (`int`): Tokens of `sequences` before the answer.
        """
        num_frames = torch.tensor([len(row) for row in self.codes], device=self.stream.device)
        size = self.num_rows, self.stream.config.num_quantizers, max(1, int(num_frames.max()))
        codes = torch.zeros(size, dtype=torch.long, device=self.stream.device)
        for number, row in enumerate(self.codes):
            if row:
                codes[number, :, : len(row)] = torch.stack(row, dim=1)
        values, lengths = self._pad(self.samples) if self.decoders else decode_audio(self.codec, codes, num_frames)
        times = None
        if self.has_times:
            times = torch.full((*sequences.shape, 2), torch.nan, dtype=torch.double)
            for number, row in enumerate(self.stream.rows):
                for token, heard in zip(self._spoken[number], row.times, strict=False):
                    times[number, prompt_length + token] = torch.tensor(heard, dtype=torch.double) / self.frame_rate
        is_cut = torch.tensor(self.stream.cut_rows)
        return JosieGenerateOutput(sequences, values, lengths, codes, self.sampling_rate, times, is_cut=is_cut)
