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

from ..layers.shared_steps import run_step
from ..option_values import check_integer, check_number, list_seeds
from ..outputs import JosieTalkerGenerateOutput
from .decoding import CodeSampler, StepLoop
from .duration_predictor import DurationStream
from .shared_steps import StreamStep, make_steps
from .timeline import Segment, Timeline

logger = logging.get_logger(__name__)

_DEFAULT_MAX_NEW_FRAMES = 512  # of a Talker that cannot tell how long a text takes
_RUNAWAY_FRAMES = 12  # speech may take twice as long as its tokens, and so many frames more


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
    """Position of a row.

    Args:
        timeline ([`Timeline`]): Its text, up to where durations are known.
        durations ([`DurationStream`], *optional*): Durations of its tokens; `None` where they are fixed.
        step (`int`): The next step of its segment; -1 is the learned start.
        start (`int`): The step of the loop with which the segment began.
        num_frames (`int`): Frames so far.
        first_frames (`list[int]`): Frames before each segment.
        is_done (`bool`): Whether it has ended.
        is_waiting (`bool`): Whether its segment has ended, and what follows is not known yet.
        is_cut (`bool`): Whether it ended at `max_new_frames`.
        is_limited (`bool`): Whether a segment of it was cut at the Talker's last position, or ended as it ran away.
        num_tokens (`int`): Tokens of its text so far.
        times (`list[tuple[float, float]]`): When the tokens that were heard to their end began and ended, in frames.
        num_timed (`int`): Tokens of its segment that are in `times`.
        untimed (`list[tuple[torch.Tensor, bool]]`): Tokens whose durations are not known yet: what each adds to the
            steps that read it, and whether it ends a sentence.
    """

    timeline: Timeline
    durations: DurationStream | None
    step: int = -1
    start: int = 0
    num_frames: int = 0
    first_frames: list[int] = field(default_factory=lambda: [0])
    is_done: bool = False
    is_waiting: bool = False
    is_cut: bool = False
    is_limited: bool = False
    num_tokens: int = 0
    times: list[tuple[float, float]] = field(default_factory=list)
    num_timed: int = 0
    untimed: list[tuple[torch.Tensor, bool]] = field(default_factory=list)

    def time_tokens(self, is_over: bool) -> None:
        """Note when the tokens of the segment were heard, all of them once it `is_over`.

        Speech may end before the durations of its tokens do: the last ones are then as long as there is speech.
        """
        first, segment = self.first_frames[-1], self.timeline.current
        for begin, end in segment.times[self.num_timed :]:
            is_unheard = self.is_cut and first + begin >= self.num_frames
            if is_unheard or (not is_over and first + end > self.num_frames):
                return
            self.times.append((min(first + begin, self.num_frames), min(first + end, self.num_frames)))
            self.num_timed += 1

    @property
    def num_unsaid(self) -> int:
        """Tokens that begin after its last frame."""
        middle = self.num_frames - self.first_frames[-1] - 0.5
        later = self.num_tokens - sum(len(segment.times) for segment in self.timeline.segments)
        later += sum(len(segment.times) for segment in self.timeline.segments[self.timeline.index + 1 :])
        return later + sum(begin > middle for begin, _ in self.timeline.current.times)


class SpeechStream:
    """A Talker that speaks text as it arrives.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): The Talker.
        batch_size (`int`): Rows.
        sampler ([`CodeSampler`], *optional*): Chooses codes; the likeliest when `None`.
        speaker_ids (`torch.LongTensor`, *optional*): `(batch,)`, rows of `config.speakers`; the first when `None`.
        max_new_frames (`int`, *optional*): Most frames of a row, each `1 / frame_rate` seconds of the codec. When
            `None`, as many as its text takes; for a Talker that does not learn durations 512, or as many as the
            positions allow.
        min_new_frames (`int`): Frames before which a row does not end.
        speed (`float`): How many times as fast tokens are said, in [0.5, 2]; Talkers that learn durations only.
        seed (`int` or `list[int]`, *optional*): Of what is drawn, one a row; one number is that of the first row, which
            the others count on from. When `None`, torch's global generator draws them.

    Raises:
        `ValueError`: A number is of another type or out of range, or speakers are unknown.
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
            max_new_frames = min(_DEFAULT_MAX_NEW_FRAMES, talker.max_frames)
        if max_new_frames is not None:
            check_integer("talker_max_new_frames", max_new_frames)
        check_integer("talker_min_new_frames", min_new_frames)
        check_number("talker_speed", speed)
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
        self.start, self._end_of_text = talker.embed_bounds(batch_size, speaker_ids)
        self.device = self.start.device
        seeds = torch.randint(2**62, (batch_size,)).tolist() if seed is None else seed
        seeds = list_seeds("talker_seed", seeds, batch_size)
        if self.sampler.do_sample:
            self.sampler.seed(seeds, self.device)
        predictor = talker.durations
        self.rows = [
            _Row(Timeline(talker.max_frames), None if predictor is None else DurationStream(predictor))
            for _ in range(batch_size)
        ]
        self._has_warned = False
        self._num_steps = 1 + config.speech_delay + talker.max_frames  # of a segment
        self._loop = StepLoop(talker.model, batch_size, self._num_steps, self.start)
        depth: Any = talker.depth_decoder
        self._depth_loop = None if depth is None else depth.make_loop(batch_size, self.start)
        self._no_codes = torch.full((batch_size, config.num_quantizers), config.codebook_size, device=self.device)
        self._codes = self._no_codes

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
        real = None if mask is None else mask.bool()
        said = range(given.shape[1]) if real is None else real.any(dim=0).nonzero()[:, 0].tolist()
        real = None if real is None else real.tolist()
        ends = None if ends_sentence is None else ends_sentence.tolist()
        known: list[tuple[_Row, torch.Tensor | None]] = []
        for index in said:  # each by itself, so that the others cannot change its last digit
            text = self.talker.embed_tokens(given[:, index : index + 1])[:, 0]
            for number, row in enumerate(self.rows):
                if real is not None and not real[number][index]:
                    continue
                row.num_tokens += 1
                if not row.is_done:
                    row.untimed.append((text[number], ends is not None and bool(ends[number][index])))
                    durations = [None] if row.durations is None else row.durations.put(given[number, index])
                    known += [(row, duration) for duration in durations]
        self._add_to_timelines(known)

    @torch.no_grad()
    def close(self, rows: Sequence[int] | None = None) -> None:
        """Say that no more text will come, in all rows when `None`."""
        closing = [row for number, row in enumerate(self.rows) if rows is None or number in rows]
        known = [(row, duration) for row in closing if row.durations for duration in row.durations.close()]
        self._add_to_timelines(known)
        for row in closing:
            row.timeline.is_closed = True

    def _add_to_timelines(self, known: Sequence[tuple[_Row, torch.Tensor | None]]) -> None:
        """Append each row's next token to its timeline, with its duration; one of `frames_per_token` when `None`."""
        predicted = [duration for _, duration in known if duration is not None]
        frames = (torch.stack(predicted).double() / self.speed).tolist() if predicted else None
        for place, (row, _) in enumerate(known):
            text, ends_sentence = row.untimed.pop(0)
            row.timeline.add(text, self.config.frames_per_token if frames is None else frames[place], ends_sentence)

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
        if self.is_done and all(row.timeline.is_closed for row in self.rows):
            self._warn_of_cut_rows()

    def end_said(self) -> None:
        """End the rows that have said all of their text; rows that wait for what follows look again."""
        for row in self.rows:
            row.is_waiting = row.is_waiting or self._is_said(row)
            if row.is_waiting and row.timeline.knows_what_follows:
                self._begin_segment(row)

    def _is_ready(self) -> bool:
        """Whether all rows that have not ended know what they read next."""
        self.end_said()
        going = [row for row in self.rows if not row.is_done]
        return bool(going) and all(
            not row.is_waiting and (row.step < 0 or row.timeline.can_read(row.step)) for row in going
        )

    def _is_said(self, row: _Row) -> bool:
        """Whether a row's segment ends here, as nothing but its text ends it."""
        segment = row.timeline.current
        if row.is_done or self.config.end_of_speech or self.max_new_frames is not None or not segment.times:
            return False
        if self._is_early(row):
            return False
        is_whole = segment.is_closed or row.timeline.is_closed
        return self.config.learns_durations and is_whole and row.num_frames - row.first_frames[-1] >= segment.end

    def _begin_segment(self, row: _Row) -> None:
        """Begin the next segment of a row whose segment has ended, or end the row."""
        row.is_waiting = False
        self._time_tokens(row, is_over=True)
        row.is_done = not row.timeline.advance()
        if row.is_done:
            return
        row.num_timed = 0
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
        speaking = [number for number, row in enumerate(self.rows) if not row.is_done and row.step >= delay]
        step = StreamStep(
            self.talker,
            self._loop,
            self._depth_loop,
            self.sampler,
            self._embed_step()[:, None],
            starts if any(starts) else None,
            speaking,
            [number for number in speaking if self.rows[number].num_frames < self.min_new_frames],
        )
        made = run_step(make_steps, step, (self.talker, self.sampler.options))
        for row in going:
            row.step += 1
        for number in set(speaking) - set(made.rows):  # they chose to end
            self.rows[number].is_waiting = True
        speaking, codes = made.rows, made.codes
        if codes is None:
            self._codes = self._no_codes
            return None
        for number in speaking:
            self.rows[number].num_frames += 1
            self._end_at_limit(number)
            self._time_tokens(self.rows[number], self.rows[number].is_done)
        self._codes = codes
        if len(speaking) < len(self.rows):
            is_speaking = torch.zeros(len(self.rows), 1, dtype=torch.bool)
            is_speaking[speaking] = True
            self._codes = torch.where(is_speaking.to(codes.device), codes, self._no_codes)
        return Frame(codes, speaking)

    def _time_tokens(self, row: _Row, is_over: bool) -> None:
        """Note which tokens were heard, where durations tell."""
        if self.config.learns_durations:
            row.time_tokens(is_over)

    def _end_at_limit(self, number: int) -> None:
        """End a row that has all frames it may have, or its segment when that is over or runs away."""
        row = self.rows[number]
        segment, num_frames = row.timeline.current, row.num_frames - row.first_frames[-1]
        if row.num_frames == self.max_new_frames:
            row.is_done = row.is_cut = True
        elif row.step == self._num_steps - 1:
            row.is_waiting = row.is_limited = True
            logger.warning(f"The speech of row {number} was cut at the Talker's last position, frame {row.num_frames}.")
        elif self._runs_away(segment, num_frames) and not self._is_early(row):
            row.is_waiting = row.is_limited = True
            logger.warning(
                f"The speech of row {number} was ended at frame {row.num_frames}: it took more than twice as long as "
                f"its text."
            )

    def _runs_away(self, segment: Segment, num_frames: int) -> bool:
        is_timed = self.config.learns_durations and segment.times
        return bool(is_timed) and num_frames >= 2 * segment.end + _RUNAWAY_FRAMES

    def _is_early(self, row: _Row) -> bool:
        """Whether a row may not end yet; a text that is not said has no frame, unless more than one is asked for."""
        return self.min_new_frames > 1 and row.num_frames < self.min_new_frames

    @property
    def cut_rows(self) -> list[bool]:
        """Whether each row, or a segment of it, was ended before its text or its speech did."""
        return [row.is_limited or self._is_cut(row) for row in self.rows]

    def _is_cut(self, row: _Row) -> bool:
        # Without a class that ends speech every row has the length that was asked for.
        return row.is_cut and row.num_tokens > 0 and bool(self.config.end_of_speech or row.num_unsaid)

    def _warn_of_cut_rows(self) -> None:
        """Warn once of rows that were cut before their text or their speech ended."""
        cut = [number for number, row in enumerate(self.rows) if self._is_cut(row)]
        if self._has_warned or not cut:
            return
        self._has_warned = True
        rows = [self.rows[number] for number in cut]
        logger.warning(
            f"Speech was cut at `talker_max_new_frames` = {self.max_new_frames} before its end in rows {cut}, with "
            f"{[row.num_unsaid for row in rows]} of {[row.num_tokens for row in rows]} tokens still to be said."
        )

    def _embed_step(self) -> torch.Tensor:
        """Return what every row reads in this step, `(batch, hidden_size)`."""
        talker, start, places, texts = self.talker, [], [], []
        for row in self.rows:
            start.append(not row.is_done and row.step < 0)
            reading = None if row.is_done or row.step < 0 else row.timeline.current.read(row.step)
            texts.append(self._end_of_text if reading is None or reading.embeds is None else reading.embeds)
            places.append((0.0, 0.0) if reading is None else (reading.since, reading.until))
        text = torch.stack(texts)
        if self.config.learns_durations:
            times = torch.tensor(places, dtype=torch.float32, device=text.device)
            text = text + talker.durations.embed_place(times.to(text.dtype))
        embeds = text + talker.code_embedding(self._codes[:, :, None])[:, 0]
        if not any(start):
            return embeds
        return torch.where(torch.tensor(start, device=text.device)[:, None], self.start[:, 0], embeds)


def collect_frames(stream: SpeechStream) -> JosieTalkerGenerateOutput:
    """Return all that a stream says, its text being complete."""
    rows: list[list[torch.Tensor]] = [[] for _ in stream.rows]
    for frame in stream.frames():
        for number in frame.rows:
            rows[number].append(frame.codes[number])
    longest = max(1, *map(len, rows))
    codes = torch.zeros(len(rows), stream.config.num_quantizers, longest, dtype=torch.long, device=stream.device)
    for number, frames in enumerate(rows):
        if frames:
            codes[number, :, : len(frames)] = torch.stack(frames, dim=1)
    return JosieTalkerGenerateOutput(
        audio_codes=codes, num_frames=torch.tensor([len(frames) for frames in rows], device=stream.device)
    )
