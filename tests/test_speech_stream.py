"""Speech while its text arrives: what streams equals what does not, for every Talker and every way of cutting."""

import math
import re

import pytest
import torch
from tiny import CASES, DEPTH, TALKER, build, lengths_to_mask
from transformers.modeling_utils import local_torch_dtype

import josie
from josie.modeling_josie.talker.decoding import CodeSampler
from josie.modeling_josie.talker.speech_stream import SpeechStream
from josie.modeling_josie.talker.timeline import Timeline

TALKERS = {
    "parallel heads": dict(),
    "depth decoder, delay 0": dict(depth_decoder_config=DEPTH, speech_delay=0),
    "three frames a token": dict(depth_decoder_config=DEPTH, frames_per_token=3, speech_delay=2),
    "durations": dict(depth_decoder_config=DEPTH, learns_durations=True, frames_per_token=2),
    "durations, embeddings alone": dict(
        learns_durations=True, reads_thinker_states=False, text_intermediate_size=20, speech_delay=3
    ),
    "durations, context": dict(
        learns_durations=True, duration_left_context=1, duration_right_context=2, depth_decoder_config=DEPTH
    ),
    "window": dict(learns_durations=True, sliding_window=5),
}
SAMPLED = dict(do_sample=True, temperature=0.8, top_k=7)


def make(name: str = "durations", **overrides) -> "josie.JosieTalkerForConditionalGeneration":
    return build(
        josie.JosieTalkerForConditionalGeneration, josie.JosieTalkerConfig(**TALKER | TALKERS[name] | overrides)
    )


def text(model, lengths: list[int]) -> dict[str, torch.Tensor]:
    shape = (len(lengths), max(lengths), 30)
    states = torch.randn(shape) if model.config.reads_thinker_states else None
    return dict(
        thinker_hidden_states=states, thinker_embeds=torch.randn(shape), thinker_mask=lengths_to_mask(lengths, shape[1])
    )


def cut(inputs: dict[str, torch.Tensor], sizes: list[int]):
    """Give the text in pieces of these sizes."""
    pieces = [[None] * len(sizes) if value is None else value.split(sizes, dim=1) for value in inputs.values()]
    yield from zip(*pieces, strict=True)


def collect(stream: SpeechStream, rows: list[list]) -> None:
    for frame in stream.frames():
        for number in frame.rows:
            rows[number].append(frame.codes[number].clone())


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", TALKERS)
def test_pieces_joined_are_the_whole(name, options):
    model = make(name)
    inputs = text(model, [9, 5, 7])
    whole = model.generate(**inputs, max_new_frames=40, seed=3, **options)
    for sizes in ([1] * 9, [4, 5], [2, 1, 6]):
        stream = SpeechStream(model, 3, CodeSampler(**options), max_new_frames=40, seed=3)
        rows: list[list] = [[], [], []]
        for piece in cut(inputs, sizes):
            stream.put(*piece)
            collect(stream, rows)
        stream.close()
        collect(stream, rows)
        assert stream.is_done
        for number, frames in enumerate(rows):
            assert len(frames) == whole.num_frames[number]
            assert torch.equal(torch.stack(frames, dim=1), whole.audio_codes[number, :, : len(frames)])


@pytest.mark.parametrize("name", TALKERS)
def test_a_frame_comes_as_soon_as_its_token_is_there(name):
    model = make(name, end_of_speech=False)
    inputs = text(model, [8])
    stream, rows, counts = SpeechStream(model, max_new_frames=60), [[]], []
    for piece in cut(inputs, [1] * 8):
        stream.put(*piece)
        collect(stream, rows)
        counts.append(len(rows[0]))
    delay, ahead = model.config.speech_delay, model.config.duration_right_context
    times = stream.rows[0].timeline.current.times
    assert len(times) == 8 - ahead
    assert not any(counts[:ahead])
    for count, (_, end) in zip(counts[ahead:], times, strict=True):
        readable = sum(step + 0.5 < end for step in range(200))
        assert count == max(0, readable - delay)
    assert counts[-1] > 0


def test_rows_draw_from_streams_of_their_own():
    model = make("durations")
    inputs = text(model, [6, 4])
    together = model.generate(**inputs, max_new_frames=30, seed=[5, 9], **SAMPLED)
    for number, seed in enumerate([5, 9]):
        alone = {key: value[number : number + 1, : (6, 4)[number]] for key, value in inputs.items()}
        spoken = model.generate(**alone, max_new_frames=30, seed=seed, **SAMPLED)
        frames = int(spoken.num_frames[0])
        assert frames == together.num_frames[number]
        assert torch.equal(spoken.audio_codes[0], together.audio_codes[number, :, :frames])
    assert not torch.equal(
        model.generate(**inputs, max_new_frames=30, seed=6, **SAMPLED).audio_codes[0], together.audio_codes[0]
    )


def test_drawing_does_not_depend_on_what_else_was_drawn():
    """Thinker and Talker have random streams of their own: drawing words between frames changes no code."""
    model = make("durations")
    inputs = text(model, [6])
    torch.manual_seed(4)
    whole = model.generate(**inputs, max_new_frames=30, **SAMPLED).audio_codes
    torch.manual_seed(4)
    stream, rows = SpeechStream(model, 1, CodeSampler(**SAMPLED), max_new_frames=30), [[]]
    for piece in cut(inputs, [1] * 6):
        torch.rand(7)
        stream.put(*piece)
        collect(stream, rows)
    stream.close()
    collect(stream, rows)
    assert torch.equal(torch.stack(rows[0], dim=1), whole[0])


def test_the_default_dtype_draws_no_other_codes():
    model = make("durations")
    inputs, options = text(model, [9] * 64), dict(max_new_frames=40, seed=3, speed=0.7, do_sample=True)
    expected = model.generate(**inputs, **options).audio_codes
    with local_torch_dtype(torch.bfloat16):
        assert torch.equal(model.generate(**inputs, **options).audio_codes, expected)


class TestLongText:
    """Texts beyond the positions are said in segments, each from a new start."""

    def long(self, lengths=(90,), **overrides):
        model = make("durations", **dict(max_position_embeddings=24) | overrides)
        inputs = text(model, list(lengths))
        ends = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
        ends[:, 5::6] = True
        return model, inputs, ends

    def test_each_segment_is_said_as_if_alone(self):
        model, inputs, ends = self.long()
        spoken = model.generate(**inputs, ends_sentence=ends)
        stream = SpeechStream(model)
        stream.put(*inputs.values(), ends)
        segments = stream.rows[0].timeline.segments
        assert len(segments) > 4
        begin, expected = 0, []
        for segment in segments:
            end = begin + len(segment.times)
            alone = model.generate(**{key: value[:, begin:end] for key, value in inputs.items()})
            expected.append(alone.audio_codes[:, :, : alone.num_frames[0]])
            begin = end
        assert begin == 90
        assert torch.equal(spoken.audio_codes, torch.cat(expected, dim=2))

    def test_segments_end_at_sentences_where_they_can(self):
        model, inputs, ends = self.long(max_position_embeddings=64)
        stream = SpeechStream(model)
        stream.put(*inputs.values(), ends)
        bounds = [len(segment.times) for segment in stream.rows[0].timeline.segments]
        assert all(sum(bounds[: index + 1]) % 6 == 0 for index in range(len(bounds) - 1))
        without = SpeechStream(model)
        without.put(*inputs.values())
        assert len(without.rows[0].timeline.segments) < len(bounds)

    @pytest.mark.slow
    def test_a_row_of_a_batch_is_said_as_alone(self):
        model, inputs, ends = self.long([90, 31, 60])
        together = model.generate(**inputs, ends_sentence=ends)
        for number, length in enumerate([90, 31, 60]):
            alone = {key: value[number : number + 1, :length] for key, value in inputs.items()}
            spoken = model.generate(**alone, ends_sentence=ends[number : number + 1, :length])
            frames = int(spoken.num_frames[0])
            assert together.num_frames[number] == frames
            assert torch.equal(together.audio_codes[number, :, :frames], spoken.audio_codes[0])

    @pytest.mark.slow
    def test_memory_is_bounded(self):
        """Ten minutes at 12.5 frames a second; two rows, so that no segment lets everything be forgotten."""
        small = dict(end_of_speech=False, depth_decoder_config=None, num_hidden_layers=1, frames_per_token=4)
        model, inputs, ends = self.long([3000, 2990], **small)
        stream, frames, sizes = SpeechStream(model, 2), 0, set()
        for piece in cut(inputs | dict(ends=ends), [10] * 300):
            stream.put(*piece)
            for frame in stream.frames():
                frames += len(frame.rows)
                sizes.add(stream._loop.cache.max_length)
            assert all(row.timeline.current.num_unread <= 24 for row in stream.rows)
        stream.close()
        frames += sum(len(frame.rows) for frame in stream.frames())
        assert frames > 2 * 7500
        assert max(sizes) <= 4 * 24

    def test_times_of_tokens_go_on_over_segments(self):
        model, inputs, ends = self.long()
        stream = SpeechStream(model)
        stream.put(*inputs.values(), ends)
        stream.close()
        num_frames = sum(1 for _ in stream.frames())
        times = stream.rows[0].times
        assert len(times) == 90
        assert all(begin <= end for begin, end in times)
        assert all(before[1] <= after[0] + 1e-9 for before, after in zip(times, times[1:], strict=False))
        assert times[-1][1] <= num_frames


def test_faster_speech_takes_less_and_reads_the_same_tokens():
    model = make("durations", end_of_speech=False)
    inputs, ends = text(model, [10]), []
    for speed in (0.5, 1.0, 2.0):
        stream = SpeechStream(model, speed=speed, max_new_frames=50)
        stream.put(*inputs.values())
        ends.append(stream.rows[0].timeline.current.end)
    assert ends[0] == pytest.approx(2 * ends[1])
    assert ends[1] == pytest.approx(2 * ends[2])


def test_speech_that_runs_away_is_ended_with_a_warning(caplog):
    model = make("durations")
    with torch.no_grad():
        model.head.weight[model.config.end_of_speech_id] = 0
    inputs = text(model, [3])
    with caplog.at_level("WARNING"):
        spoken = model.generate(**inputs)
    stream = SpeechStream(model)
    stream.put(*inputs.values())
    end = stream.rows[0].timeline.current.end
    assert 2 * end + 12 <= int(spoken.num_frames[0]) < 2 * end + 14
    assert "took more than twice as long as its text" in caplog.text


@pytest.mark.parametrize("end_of_speech", [True, False])
def test_speech_is_as_long_as_is_asked_for(end_of_speech):
    model = make("durations", end_of_speech=end_of_speech)
    inputs = text(model, [3])
    num_frames = int(model.generate(**inputs).num_frames[0]) + 30
    assert int(model.generate(**inputs, min_new_frames=num_frames).num_frames[0]) >= num_frames


def test_without_a_class_that_ends_speech_it_ends_with_its_text(caplog):
    model = make("durations", end_of_speech=False)
    inputs = text(model, [3, 7])
    with caplog.at_level("WARNING"):
        spoken = model.generate(**inputs)
    stream = SpeechStream(model, 2)
    stream.put(*inputs.values())
    assert spoken.num_frames.tolist() == [math.ceil(row.timeline.current.end) for row in stream.rows]
    assert not caplog.text


def test_words_that_are_left_are_warned_of(caplog):
    model = make("durations", end_of_speech=False)
    with caplog.at_level("WARNING"):
        model.generate(**text(model, [9, 1]), max_new_frames=4)
    expected = r"`talker_max_new_frames` = 4 before its end in rows \[0\], with \[\d\] of \[9\] tokens"
    assert re.search(expected, caplog.text)


def test_rows_of_several_segments_draw_from_streams_of_their_own():
    """A row that begins a segment draws nothing, and nothing is drawn for it while others go on."""
    model = make("durations", max_position_embeddings=24, speech_delay=3)
    inputs = text(model, [50, 31])
    together = model.generate(**inputs, seed=[5, 9], **SAMPLED)
    for number, length, seed in [(0, 50, 5), (1, 31, 9)]:
        alone = {key: value[number : number + 1, :length] for key, value in inputs.items()}
        spoken = model.generate(**alone, seed=seed, **SAMPLED)
        frames = int(spoken.num_frames[0])
        assert frames == together.num_frames[number]
        assert torch.equal(spoken.audio_codes[0], together.audio_codes[number, :, :frames])


def test_tokens_are_timed_when_they_are_over():
    model = make("durations", end_of_speech=False)
    inputs = text(model, [8])
    stream, frames = SpeechStream(model), 0
    for piece in cut(inputs, [1] * 8):
        stream.put(*piece)
        for frame in stream.frames():
            frames += len(frame.rows)
            ends = [end for _, end in stream.rows[0].timeline.current.times]
            assert [end for _, end in stream.rows[0].times] == [end for end in ends if end <= frames]
    stream.close()
    assert sum(1 for _ in stream.frames()) + frames == math.ceil(ends[-1])
    assert stream.rows[0].times == stream.rows[0].timeline.current.times


def test_tokens_that_are_cut_have_no_time():
    model = make("durations", end_of_speech=False)
    inputs = text(model, [8])
    stream = SpeechStream(model, max_new_frames=5)
    stream.put(*inputs.values())
    stream.close()
    assert sum(1 for _ in stream.frames()) == 5
    times = stream.rows[0].timeline.current.times
    heard = sum(begin < 5 for begin, _ in times)
    assert 0 < heard < 8
    assert stream.rows[0].times == [(begin, min(end, 5)) for begin, end in times[:heard]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(speed=0.4), r"`talker_speed` must be in \[0.5, 2\], got 0.4"),
        (dict(speed="1"), "`talker_speed` must be a number, got '1'"),
        (dict(seed=[1, 2.5]), r"`talker_seed` must be an integer or one for each row, got \[1, 2.5\]"),
        (dict(seed=1.5), "`talker_seed` must be an integer or one for each row, got 1.5"),
        (dict(seed="x"), "`talker_seed` must be an integer or one for each row, got 'x'"),
        (dict(max_new_frames=2.5), "`talker_max_new_frames` must be an integer, got 2.5"),
        (dict(max_new_frames="3"), "`talker_max_new_frames` must be an integer, got '3'"),
        (dict(max_new_frames=True), "`talker_max_new_frames` must be an integer, got True"),
        (dict(min_new_frames=1.5), "`talker_min_new_frames` must be an integer, got 1.5"),
        (dict(seed=[1, 2, 3]), "`talker_seed` must be one number for each of 2 rows, got 3"),
        (dict(max_new_frames=0), "`talker_max_new_frames` must be at least 1, got 0"),
        (dict(max_new_frames=3, min_new_frames=4), r"`talker_min_new_frames` must be in \[1, 3\], got 4"),
    ],
)
def test_bad_options(options, message):
    model = make("durations")
    with pytest.raises(ValueError, match=message):
        SpeechStream(model, 2, CodeSampler(**SAMPLED), **options)


def test_speed_needs_durations():
    with pytest.raises(ValueError, match="`talker_speed` must be 1 for a Talker that does not learn durations, got 2"):
        SpeechStream(CASES["talker-depth"].build(), speed=2.0)


def test_a_timeline_waits_for_what_it_does_not_know():
    timeline = Timeline(100)
    assert not timeline.can_read(0)
    timeline.add(torch.ones(3), 1.2)
    assert timeline.can_read(0)
    assert not timeline.can_read(1)
    timeline.is_closed = True
    reading = timeline.current.read(1)
    assert reading.embeds is None
    assert reading.since == pytest.approx(0.3)
