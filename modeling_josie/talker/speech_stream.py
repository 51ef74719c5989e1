"""Speech frame by frame, while its text arrives.

Each step of the Talker reads one token, the one whose summed duration covers the step. So a frame is made as soon as
that token is there: text goes in with [`SpeechStream.put`], frames come out of [`SpeechStream.frames`]. What comes out
does not depend on how the text was cut into pieces, since every token is projected by itself and every step runs by
itself. Generation from a whole text is the same stream, given all of it at once.

The rows of a batch step together. Each segment of a row's text is spoken from a new start (see `timeline`), from which
on its steps do not see what it said before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import logging

from ..outputs import JosieTalkerGenerateOutput
from .decoding import CodeSampler, StepLoop
from .timeline import Timeline

logger = logging.get_logger(__name__)

DEFAULT_MAX_NEW_FRAMES = 512  # of a Talker that cannot tell how long a text takes
_RUNAWAY_FACTOR, _RUNAWAY_FRAMES = 2.0, 12  # speech may take so many times what its tokens take, and so many more


@dataclass
class Frame:
    """A frame of speech.

    Args:
        codes (`torch.LongTensor`): `(batch, num_quantizers)`.
        rows (`list[int]`): The rows that made a frame; what stands in the others is nothing.
    """

    codes: torch.Tensor
    rows: list[int]


@dataclass
class _Row:
    """Where a row is.

    Args:
        timeline ([`Timeline`]): Its text.
        step (`int`): The next step of its segment; -1 is the learned start.
        start (`int`): The step of the loop with which the segment began.
        num_frames (`int`): Frames so far.
        first_frames (`list[int]`): Frames before each segment.
        is_done (`bool`): Whether it has ended.
        is_waiting (`bool`): Whether its segment has ended, and what follows is not known yet.
    """

    timeline: Timeline
    step: int = -1
    start: int = 0
    num_frames: int = 0
    first_frames: list[int] = field(default_factory=lambda: [0])
    is_done: bool = False
    is_waiting: bool = False


class SpeechStream:
    """A Talker that speaks text as it arrives.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): The Talker.
        batch_size (`int`): Rows.
        sampler ([`CodeSampler`], *optional*): Chooses codes; the likeliest when `None`.
        speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`, rows of `config.speakers`; the first when `None`.
        max_new_frames (`int`, *optional*): Most frames of a row. When `None`, as many as its text takes, or 512 for a
            Talker that does not learn durations.
        min_new_frames (`int`): Frames before which a row does not end.
        speed (`float`): How many times as fast tokens are said, in [0.5, 2]; Talkers that learn durations only.
        seed (`int` or `list[int]`, *optional*): Of what is drawn, one a row; one number is that of the first row, which
            the others count on from. When `None`, torch's global generator draws them.

    Raises:
        `ValueError`: A number is out of range, or speakers are unknown.
    """

    def __init__(
        self,
        talker: Any,
        batch_size: int = 1,
        sampler: CodeSampler | None = None,
        speaker_ids: torch.Tensor | None = None,
        max_new_frames: int | None = None,
        min_new_frames: int = 1,
        speed: float = 1.0,
        seed: int | list[int] | None = None,
    ):
        config = talker.config
        if max_new_frames is None and not config.learns_durations:
            max_new_frames = DEFAULT_MAX_NEW_FRAMES
        if max_new_frames is not None and max_new_frames < 1:
            raise ValueError(f"`talker_max_new_frames` must be at least 1, got {max_new_frames}.")
        if min_new_frames < 1 or (max_new_frames is not None and min_new_frames > max_new_frames):
            allowed = "at least 1" if max_new_frames is None else f"in [1, {max_new_frames}]"
            raise ValueError(f"`talker_min_new_frames` must be {allowed}, got {min_new_frames}.")
        if not 0.5 <= speed <= 2:
            raise ValueError(f"`talker_speed` must be in [0.5, 2], got {speed}.")
        if speed != 1 and not config.learns_durations:
            raise ValueError(f"`talker_speed` must be 1 for a Talker that does not learn durations, got {speed}.")
        self.talker, self.config = talker, config
        self.sampler = CodeSampler() if sampler is None else sampler
        self.max_new_frames, self.min_new_frames, self.speed = max_new_frames, min_new_frames, speed
        if self.sampler.do_sample:
            self.sampler.seed(self._choose_seeds(seed, batch_size), talker.device)
        self.rows = [_Row(Timeline(talker.max_frames)) for _ in range(batch_size)]
        self.start = talker.embed_start(batch_size, speaker_ids)[:, 0]
        self._num_steps = 1 + config.speech_delay + talker.max_frames  # of a segment
        self._loop = StepLoop(talker.model, batch_size, self._num_steps, self.start[:, None])
        depth: Any = talker.depth_decoder
        self._depth_loop = None if depth is None else depth.make_loop(batch_size, self.start[:, None])
        self._no_codes = torch.full((batch_size, config.num_quantizers), config.codebook_size, device=self.start.device)
        self._codes = self._no_codes

    @staticmethod
    def _choose_seeds(seed: int | list[int] | None, batch_size: int) -> list[int]:
        if seed is None:
            return torch.randint(2**62, (batch_size,)).tolist()
        seeds = list(range(seed, seed + batch_size)) if isinstance(seed, int) else list(seed)
        if len(seeds) != batch_size:
            raise ValueError(f"`talker_seed` must be one number for each of {batch_size} rows, got {len(seeds)}.")
        return seeds

    @torch.no_grad()
    def put(
        self,
        hidden_states: torch.Tensor | None,
        embeds: torch.Tensor | None,
        mask: torch.Tensor | None = None,
        ends_sentence: torch.Tensor | None = None,
    ) -> None:
        """Append tokens to the text.

        Args:
            hidden_states, embeds (`torch.Tensor`): `(batch, num_tokens, thinker_hidden_size)`, the Thinker's states and
                embeddings of the tokens; a Talker that does not read states takes `None`.
            mask (`torch.Tensor`, *optional*): `(batch, num_tokens)`, 1 for the tokens to say.
            ends_sentence (`torch.Tensor`, *optional*): `(batch, num_tokens)`, where a long text may be cut.
        """
        given = self.talker._join_text(len(self.rows), hidden_states, embeds)
        texts, durations = [], []
        for token in given.split(1, dim=1):  # each by itself, so that the others cannot change its last digit
            texts.append(self.talker.embed_tokens(token)[:, 0])
            if self.config.learns_durations:
                durations.append(self.talker.durations(token, None)[:, 0])
        frames = None if not durations else (torch.stack(durations, dim=1).double() / self.speed).tolist()
        real = None if mask is None else mask.tolist()
        ends = None if ends_sentence is None else ends_sentence.tolist()
        for index, text in enumerate(texts):
            for number, row in enumerate(self.rows):
                if real is None or real[number][index]:
                    duration = self.config.frames_per_token if frames is None else frames[number][index]
                    row.timeline.add(text[number], duration, ends is not None and bool(ends[number][index]))

    def close(self, rows: Sequence[int] | None = None) -> None:
        """Say that no more text will come, in all rows when `None`."""
        for number, row in enumerate(self.rows):
            if rows is None or number in rows:
                row.timeline.is_closed = True

    @property
    def is_done(self) -> bool:
        """Whether every row has ended."""
        return all(row.is_done for row in self.rows)

    def frames(self) -> Iterator[Frame]:
        """Give the frames that can be made of the text so far."""
        while self._is_ready():
            frame = self._make_step()
            if frame is not None:
                yield frame

    def _is_ready(self) -> bool:
        """Whether all rows that have not ended know what they read next; rows that wait for what follows look again."""
        for row in self.rows:
            if row.is_waiting and row.timeline.knows_what_follows:
                self._begin_segment(row)
        going = [row for row in self.rows if not row.is_done]
        return bool(going) and all(
            not row.is_waiting and (row.step < 0 or row.timeline.can_read(row.step)) for row in going
        )

    def _begin_segment(self, row: _Row) -> None:
        """Begin the next segment of a row whose segment has ended, or end the row."""
        row.is_waiting = False
        row.is_done = not row.timeline.advance()
        if row.is_done:
            return
        row.step = -1
        row.first_frames.append(row.num_frames)
        if len(self.rows) == 1:
            self._loop.restart()
        row.start = self._loop.length

    @torch.no_grad()
    def _make_step(self) -> Frame | None:
        """Run one step of all rows; return the frame if any row made one."""
        delay, going = self.config.speech_delay, [row for row in self.rows if not row.is_done]
        oldest = min(row.start for row in going)
        dropped = self._loop.make_room(oldest)
        for row in self.rows:
            row.start -= dropped
        starts = [row.start for row in self.rows]
        state = self._loop.step(self._embed_step(), starts if any(starts) else None)
        speaking = [number for number, row in enumerate(self.rows) if not row.is_done and row.step >= delay]
        for row in going:
            row.step += 1
        if not speaking:
            self._codes = self._no_codes
            return None
        logits = self.talker.head(state)
        end_id = self.config.end_of_speech_id
        if end_id is not None:
            early = [number for number in speaking if self.rows[number].num_frames < self.min_new_frames]
            if early:
                logits[early, end_id] = -torch.inf
        first = self.sampler(logits)
        if end_id is not None:
            chosen = first.tolist()
            for number in [number for number in speaking if chosen[number] == end_id]:
                self.rows[number].is_waiting = True
                speaking.remove(number)
            if not speaking:
                self._codes = self._no_codes
                return None
            first = first.clamp(max=self.config.codebook_size - 1)
        codes = first[:, None]
        if self._depth_loop is not None or self.talker.depth_decoder is not None:
            codes = self.talker.depth_decoder.generate(state, first, self.sampler, self._depth_loop)
        for number in speaking:
            self.rows[number].num_frames += 1
            self._end_at_limit(number)
        is_speaking = torch.zeros(len(self.rows), 1, dtype=torch.bool)
        is_speaking[speaking] = True
        self._codes = torch.where(is_speaking.to(codes.device), codes, self._no_codes)
        return Frame(codes, speaking)

    def _end_at_limit(self, number: int) -> None:
        """End a row that has all frames it may have, or its segment if it runs away."""
        row = self.rows[number]
        segment, num_frames = row.timeline.current, row.num_frames - row.first_frames[-1]
        if row.num_frames == self.max_new_frames:
            row.is_done = True
            if unread := row.timeline.num_unread:
                logger.warning(
                    f"The speech of row {number} was cut at `talker_max_new_frames`, {self.max_new_frames} frames, "
                    f"with {unread} tokens left to say."
                )
        elif row.step == self._num_steps - 1:
            row.is_waiting = True
            logger.warning(f"The speech of row {number} was cut at the Talker's last position, frame {row.num_frames}.")
        elif self.config.learns_durations and segment.num_unread == 0 and segment.times:
            is_over = segment.is_closed or row.timeline.is_closed
            if is_over and num_frames >= _RUNAWAY_FACTOR * segment.end + _RUNAWAY_FRAMES:
                row.is_waiting = True
                logger.warning(
                    f"The speech of row {number} was ended at frame {row.num_frames}: it took more than twice as long "
                    f"as its text."
                )

    def _embed_step(self) -> torch.Tensor:
        """Return what every row reads in this step, `(batch, hidden_size)`."""
        talker, start, places, texts = self.talker, [], [], []
        for row in self.rows:
            start.append(not row.is_done and row.step < 0)
            reading = None if row.is_done or row.step < 0 else row.timeline.current.read(row.step)
            texts.append(talker.end_of_text if reading is None or reading.embeds is None else reading.embeds)
            places.append((0.0, 0.0) if reading is None else (reading.since, reading.until))
        text = torch.stack(texts)
        if self.config.learns_durations:
            text = text + talker.durations.embed_place(torch.tensor(places, device=text.device).to(text.dtype))
        embeds = text + talker.code_embedding(self._codes[:, :, None])[:, 0]
        if not any(start):
            return embeds
        return torch.where(torch.tensor(start, device=text.device)[:, None], self.start, embeds)

    def token_times(self, number: int) -> list[tuple[float, float]]:
        """Return when each token of a row is heard, in frames: begin and end, as far as its segment has begun."""
        row = self.rows[number]
        times = []
        bounds = [*row.first_frames[1:], row.num_frames if row.is_done else float("inf")]
        for first, bound, segment in zip(row.first_frames, bounds, row.timeline.segments, strict=False):
            times += [(min(first + begin, bound), min(first + end, bound)) for begin, end in segment.times]
        return times


def collect_frames(stream: SpeechStream) -> JosieTalkerGenerateOutput:
    """Return all that a stream says, its text being complete."""
    rows: list[list[torch.Tensor]] = [[] for _ in stream.rows]
    for frame in stream.frames():
        for number in frame.rows:
            rows[number].append(frame.codes[number])
    longest = max(1, *map(len, rows))
    device = stream.start.device
    codes = torch.zeros(len(rows), stream.config.num_quantizers, longest, dtype=torch.long, device=device)
    for number, frames in enumerate(rows):
        if frames:
            codes[number, :, : len(frames)] = torch.stack(frames, dim=1)
    return JosieTalkerGenerateOutput(
        audio_codes=codes, num_frames=torch.tensor([len(frames) for frames in rows], device=device)
    )
