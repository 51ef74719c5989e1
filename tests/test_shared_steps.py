"""Streams that share steps: each says what it says alone, whoever joins, ends, is cancelled or fails beside it."""

import gc
import weakref

import numpy as np
import pytest
import torch
from duplex_models import make_pair
from shared_runs import run_together
from speech_pieces import make_josie
from test_speech_stream import SAMPLED, TALKERS, make, text
from tiny import CASES, JODIO, JODIO_MEL

from josie.modeling_josie.codecs.decoder_stream import RowDecoder
from josie.modeling_josie.codecs.streaming import JodioStreamingState, join_states, split_state
from josie.modeling_josie.layers.shared_steps import run_step
from josie.modeling_josie.talker.decoding import CodeSampler
from josie.modeling_josie.talker.speech_stream import SpeechStream
from josie.serving.turns import CancelledError

DELAYS = [0, 2, 4, 3]


def say(model, inputs, seed, options, on_frame=None, **limits):
    """Return a work that says a text: the codes of each row."""

    def work(ticket):
        batch_size = len(inputs["thinker_embeds"])
        stream = SpeechStream(model, batch_size, CodeSampler(**options), seed=seed, **limits)
        stream.put(*inputs.values())
        stream.close()
        rows = [[] for _ in range(batch_size)]
        for frame in stream.frames():
            for number in frame.rows:
                rows[number].append(frame.codes[number].tolist())
            if on_frame is not None:
                on_frame(ticket, len(rows[0]))
        return rows

    return work


def texts(model, sizes=([9], [4], [6, 2], [7])):
    torch.manual_seed(5)
    return [text(model, list(lengths)) for lengths in sizes]


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", TALKERS)
def test_streams_say_what_they_say_alone(name, options):
    model = make(name)
    works = [say(model, inputs, 10 * number, options, max_new_frames=40) for number, inputs in enumerate(texts(model))]
    alone = [work(None) for work in works]
    together, steps = run_together(works, DELAYS)
    assert together == alone
    assert max(steps.sizes["make_steps"]) >= 3


def test_segments_of_long_texts():
    model = make("durations", max_position_embeddings=24, end_of_speech=False)
    works = [say(model, inputs, 1, {}) for inputs in texts(model, ([40], [3], [30, 9], [25]))]
    alone = [work(None) for work in works]
    assert len(alone[0][0]) > 3 * model.max_frames
    assert run_together(works, DELAYS)[0] == alone


def test_rows_end_by_themselves_and_not_too_early():
    model = make("depth decoder, delay 0")
    with torch.no_grad():
        model.head.weight[model.config.end_of_speech_id] *= 3
    works = [
        say(model, inputs, number, {}, max_new_frames=30, min_new_frames=1 + number)
        for number, inputs in enumerate(texts(model))
    ]
    alone = [work(None) for work in works]
    assert len({len(row) for rows in alone for row in rows}) > 1
    assert run_together(works)[0] == alone


def test_what_cannot_be_chosen_alike_is_made_apart():
    model = make("parallel heads")
    options = [{}, SAMPLED, SAMPLED | dict(top_k=3), {}]
    works = [
        say(model, inputs, 1, sampling, max_new_frames=9)
        for inputs, sampling in zip(texts(model), options, strict=True)
    ]
    alone = [work(None) for work in works]
    together, steps = run_together(works)
    assert together == alone
    assert max(steps.sizes["make_steps"]) == 2


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
class TestTrouble:
    def test_who_is_cancelled_leaves_the_others_as_they_were(self, options):
        model = make()

        def cancel(ticket, num_frames):
            if ticket is not None and num_frames == 4:
                ticket.is_cancelled = True

        works = [
            say(model, inputs, number, options, cancel if number == 1 else None, max_new_frames=20)
            for number, inputs in enumerate(texts(model))
        ]
        alone = [work(None) for work in works]
        together, _ = run_together(works)
        assert isinstance(together.pop(1), CancelledError)
        assert together == [alone[0], *alone[2:]]

    def test_who_fails_beside_others_fails_alone(self, options, monkeypatch):
        """In what streams share, here in the last of its operations, so that all before has to be undone."""
        model = make()
        works = [say(model, inputs, number, options, max_new_frames=20) for number, inputs in enumerate(texts(model))]
        alone = [work(None) for work in works]
        generate, calls = model.depth_decoder.generate, []

        def fail(states, codes, sampler, loop):
            made = generate(states, codes, sampler, loop)
            calls.append(len(states))
            if len(calls) in (3, 5):  # a batch, and the second stream of it by itself
                raise RuntimeError("out of memory")
            return made

        monkeypatch.setattr(model.depth_decoder, "generate", fail)
        together, _ = run_together(works)
        assert calls[2] == 5
        assert isinstance(together.pop(1), RuntimeError)
        assert together == [alone[0], *alone[2:]]


def test_an_error_of_one_part_is_not_that_of_others():
    def halve(parts):
        if any(part % 2 for part in parts):
            raise ValueError(f"{parts} must be even.")
        return [part // 2 for part in parts]

    works = [lambda ticket, part=part: run_step(halve, part, "halves") for part in (2, 3, 4)]
    results, steps = run_together(works)
    assert (results[0], results[2]) == (1, 2)
    assert str(results[1]) == "[3] must be even."
    assert steps.sizes["halve"] == [3, 1, 1, 1]


CODECS = {"waveform": CASES["jodio"].build, "mel": CASES["jodio-mel"].build}


def decode(codec, codes, delay=0):
    def work(ticket):
        decoder, pieces = RowDecoder(codec), []
        for frame in codes.unbind(dim=1):
            if ticket is not None:
                run_step(lambda parts: parts, None, "a frame of the Talker")
            pieces += decoder.push(frame)
        pieces += decoder.finish()
        return torch.cat(pieces, dim=1)

    return work


@torch.no_grad()
@pytest.mark.parametrize("name", CODECS)
def test_codecs_decode_what_they_decode_alone(name):
    codec = CODECS[name]().prepare_for_inference()
    torch.manual_seed(2)
    works = [decode(codec, torch.randint(0, codec.config.codebook_size, (3, length))) for length in (61, 17, 40, 1)]
    alone = [work(None) for work in works]
    together, steps = run_together(works, [0, 2, 7, 5])
    for given, wanted in zip(together, alone, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)
    assert max(steps.sizes["_decode_rows"]) >= 3


def test_blocks_of_streams_that_began_apart_end_together():
    codec = CODECS["waveform"]().prepare_for_inference()
    works = [decode(codec, torch.zeros(3, 41, dtype=torch.long)) for _ in range(3)]
    with torch.no_grad():
        _, steps = run_together(works, [0, 2, 3])
    assert steps.sizes["_decode_rows"][-8:-2] == [3] * 6


def test_states_join_and_split():
    codec = CODECS["waveform"]()
    decoding = codec.get_decoding()
    fresh = decoding.enter_stream(None, 1)
    codes = torch.randint(0, codec.config.codebook_size, (1, 3, 5))
    later = codec.decode(codes, use_streaming=True).streaming_state
    joined = join_states([fresh, later])
    assert joined.batch_size == 2
    output = codec.decode(codes.expand(2, -1, -1), streaming_state=joined)
    first, second = split_state(output.streaming_state, [fresh, later])
    assert (first.num_frames, second.num_frames) == (5, 10)
    tensors = [*second.buffers.values(), *(layer.keys for layer in second.cache.layers)]
    assert all(tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes for tensor in tensors)
    assert isinstance(first, JodioStreamingState)
    for state, before in ((first, None), (second, later)):
        values = codec.decode(codes, streaming_state=before, use_streaming=True)
        following = codec.decode(codes, streaming_state=state).audio_values
        wanted = codec.decode(codes, streaming_state=values.streaming_state).audio_values
        torch.testing.assert_close(following, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="`states` must have no rows that were reset"):
        join_states([fresh, later.reset_rows(torch.tensor([True]))])
    with pytest.raises(ValueError, match="`streaming_state` must fit a batch of 3"):
        codec.decode(codes.expand(3, -1, -1), streaming_state=joined)


@pytest.mark.parametrize("codec", [JODIO, JODIO_MEL], ids=["waveform", "mel"])
def test_answers_of_a_whole_model(codec):
    model = make_josie(codec=codec).eval()
    model.prepare_for_inference()
    prompts = [[1, 20, 21, 22], [1, 23], [1, 24, 25]]
    limits = dict(max_new_tokens=9, talker_max_new_frames=30)

    def answer(prompt):
        return lambda ticket: model.generate(torch.tensor([prompt]), generation_mode="audio", **limits)

    works = [answer(prompt) for prompt in prompts]
    alone = [work(None) for work in works]
    together, steps = run_together(works, [0, 2, 5])
    for given, wanted in zip(together, alone, strict=True):
        assert torch.equal(given.sequences, wanted.sequences)
        assert torch.equal(given.audio_codes, wanted.audio_codes)
        torch.testing.assert_close(given.audio_values, wanted.audio_values, rtol=1e-4, atol=1e-5)
    assert max(steps.sizes["make_steps"]) == 3
    assert max(steps.sizes["_decode_rows"]) > 1


def test_sessions_in_full_duplex():
    model, processor = make_pair()
    model.prepare_for_inference()

    def hear(seed):
        def work(ticket):
            session = model.start_session(processor, talker_seed=seed, speak_bias=4.0)
            samples = np.random.default_rng(seed).uniform(-1, 1, 9 * session.unit_samples).astype(np.float32)
            pieces = [session.push(samples[begin : begin + 40]) for begin in range(0, len(samples), 40)]
            return "".join(piece.text for piece in pieces), np.concatenate([piece.audio_values for piece in pieces])

        return work

    works = [hear(seed) for seed in range(3)]
    alone = [work(None) for work in works]
    together, steps = run_together(works, [0, 1, 4])
    for given, wanted in zip(together, alone, strict=True):
        assert given[0] == wanted[0]
        np.testing.assert_allclose(given[1], wanted[1], rtol=1e-4, atol=1e-5)
    assert any(wanted[1].any() for wanted in alone)
    assert max(steps.sizes["make_steps"]) == 3


def test_nothing_stays_of_streams_that_ended():
    model, kept = make(), []

    def work(inputs):
        def run(ticket):
            stream = SpeechStream(model, max_new_frames=9)
            kept.extend(weakref.ref(thing) for thing in (stream, stream._loop.cache, stream._loop.cache.states[0]))
            stream.put(*inputs.values())
            stream.close()
            for _ in stream.frames():
                pass

        return run

    run_together([work(text(model, [number])) for number in (5, 7, 3)])
    gc.collect()
    assert [thing for thing in kept if thing() is not None] == []
    assert len(kept) == 9


def test_turns_go_round():
    """Whoever passes the turn on waits again before another goes on, however threads are scheduled."""
    order = []

    def work(number):
        def run(ticket):
            for _ in range(300):
                order.append(number)
                ticket.pass_on()

        return run

    run_together([work(number) for number in range(3)])
    assert order == [0, 1, 2] * 300
