"""Streams of speech that cannot be, that fail, or that nobody takes to their end: one sentence, or a clean end."""

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
import time

import pytest
import torch
from speech_pieces import LIMITS, make_josie, make_reader, threads
from tiny import build, josie_config

import josie
from josie.modeling_josie.speech.pieces import SpeechPieces, take_from

PROMPT = torch.tensor([[1, 20, 21]])
LONG = dict(max_new_tokens=60, min_new_tokens=60)


class Taker:
    """An `audio_streamer` that keeps all, and may fail."""

    def __init__(self, fails: bool = False):
        self.pieces, self.num_ends, self.fails = [], 0, fails

    def put(self, piece):
        if self.fails:
            raise OSError("the loudspeaker was pulled out")
        self.pieces.append(piece)

    def end(self):
        self.num_ends += 1


def has_no_thread() -> bool:
    """Wait until the threads that were told to end have ended."""
    gc.collect()
    for _ in range(200):
        if not threads():
            return True
        time.sleep(0.05)
    return False


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(num_beams=2), "`num_beams` must be 1 in a stream of speech, .* got 2"),
            (dict(num_return_sequences=3, do_sample=True), "`num_return_sequences` must be 1 in a stream .* got 3"),
            (dict(prompt_lookup_num_tokens=2), "`prompt_lookup_num_tokens` must be None in a stream .* got 2"),
            (dict(custom_generate="some/repository"), "`custom_generate` must be None in a stream .*'some/repository'"),
            (dict(generation_mode="text"), '`generation_mode` must be "audio" in a stream of speech'),
            (dict(audio_streamer=Taker()), "`audio_streamer` must be None in `generate_stream`"),
        ],
    )
    def test_what_a_stream_cannot_be_is_said_at_once(self, options, message):
        with pytest.raises(ValueError, match=message):
            make_josie().generate_stream(PROMPT, **LIMITS, **options)

    def test_beams_of_the_generation_config_count(self):
        model, taker = make_josie(), Taker()
        model.generation_config.num_beams = 2
        with pytest.raises(ValueError, match="`num_beams` must be 1 in a stream of speech"):
            model.generate(PROMPT, generation_mode="audio", audio_streamer=taker, **LIMITS)
        assert taker.num_ends == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(talker_speed=2.5), r"`talker_speed` must be in \[0.5, 2\], got 2.5"),
            (dict(talker_seed=3), "`talker_seed` must be None without `talker_do_sample`"),
            (
                dict(talker_do_sample=True, talker_seed=[1, 2]),
                "`talker_seed` must be one number for each of 1 rows, got 2",
            ),
            (dict(speaker="nobody"), "`speaker` must be"),
            (dict(talker_pitch=2), "`talker_pitch` must be one of"),
        ],
    )
    def test_options_of_the_voice(self, options, message):
        tokenizer = josie.load_default_tokenizer(301)
        for begin in (
            lambda: list(make_josie().generate_stream(PROMPT, **LIMITS, **options)),
            lambda: make_josie().speak_stream("Hello.", tokenizer, **options),
        ):
            with pytest.raises(ValueError, match=message):
                begin()
        assert has_no_thread()

    def test_a_codec_of_whole_utterances(self):
        model, taker = build(josie.JosieForConditionalGeneration, josie_config()), Taker()
        message = "`audio_codec` must be one of .*, got 'josie_mel_codec', which decodes whole utterances"
        for begin in (
            lambda: model.generate_stream(PROMPT),
            lambda: model.speak_stream("Hello.", None),
            lambda: model.generate(PROMPT, generation_mode="audio", audio_streamer=taker),
        ):
            with pytest.raises(ValueError, match=message):
                begin()
        assert taker.num_ends == 1

    def test_what_is_no_streamer(self):
        with pytest.raises(ValueError, match="`audio_streamer` must have the methods `put` and `end`, got list"):
            make_josie().generate(PROMPT, generation_mode="audio", audio_streamer=[])
        with pytest.raises(ValueError, match='`audio_streamer` must be None with `generation_mode="text"`'):
            make_josie().generate(PROMPT, audio_streamer=Taker())
        with pytest.raises(ValueError, match="`max_waiting` must be at least 1, got 0"):
            josie.AudioIteratorStreamer(0)

    def test_a_model_without_a_voice(self):
        model = build(josie.JosieForConditionalGeneration, josie_config(talker_config=None, audio_codec_config=None))
        for begin in (lambda: model.generate_stream(PROMPT), lambda: model.speak_stream("Hello.", None)):
            with pytest.raises(
                ValueError, match="must be called on a model with a Talker and an audio codec, got none"
            ):
                begin()


class TestStopping:
    def test_a_loop_that_is_left(self):
        for _ in make_josie().generate_stream(PROMPT, **LONG):
            break
        assert has_no_thread()

    def test_an_iterator_that_is_forgotten_before_its_first_piece(self):
        make_josie().generate_stream(PROMPT, **LONG)
        assert has_no_thread()

    def test_pieces_that_were_never_made_end_without_a_word(self, monkeypatch):
        failed = []
        monkeypatch.setattr(sys, "unraisablehook", failed.append)
        for double in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="Pieces of speech are made once, and cannot be copied or pickled"):
                double(take_from(piece for piece in ()))
        SpeechPieces.__new__(SpeechPieces)
        gc.collect()
        assert failed == []

    def test_a_model_that_was_stopped_answers_again(self):
        model = make_josie()
        whole = model.generate(PROMPT, generation_mode="audio", **LIMITS)
        with model.generate_stream(PROMPT, **LONG) as pieces:
            next(pieces)
        assert threads() == []
        again = model.generate(PROMPT, generation_mode="audio", **LIMITS)
        assert torch.equal(again.audio_values, whole.audio_values)

    def test_closing_while_another_thread_waits_for_a_piece(self):
        pieces, taken = make_josie().generate_stream(PROMPT, **LONG), []
        taker = threading.Thread(target=lambda: taken.extend(pieces))
        taker.start()
        time.sleep(0.1)
        pieces.close()
        taker.join(10)
        assert not taker.is_alive()
        assert threads() == []

    def test_in_asyncio(self):
        async def take_one():
            async with make_josie().generate_stream(PROMPT, **LONG) as pieces:
                return await anext(pieces)

        assert not asyncio.run(take_one()).is_final
        assert threads() == []

    def test_text_that_nobody_wants_any_more(self):
        ended = []

        def texts():
            try:
                while True:
                    yield "word "
            finally:
                ended.append(True)

        model, tokenizer = make_reader("embeddings, durations")
        with model.speak_stream(texts(), tokenizer) as pieces:
            assert any(piece.audio_lengths.any() for piece, _ in zip(pieces, range(60), strict=False))
        gc.collect()
        assert ended == [True]
        assert list(pieces) == []

    def test_a_streamer_that_was_closed_ends_generation(self):
        model, streamer, raised = make_josie(), josie.AudioIteratorStreamer(), []

        def answer():
            try:
                model.generate(PROMPT, generation_mode="audio", audio_streamer=streamer, **LONG)
            except josie.StreamClosedError as error:
                raised.append(error)

        thread = threading.Thread(target=answer)
        thread.start()
        next(streamer)
        streamer.close()
        thread.join()
        assert len(raised) == 1
        assert list(streamer) == []


LEFT = """
import sys, threading
sys.path[:0] = {path}
import josie, torch
from speech_pieces import make_josie, make_reader
options = dict(max_new_tokens=60, min_new_tokens=60)
prompt = torch.tensor([[1, 20, 21]])
made = josie.AudioIteratorStreamer(1)
by_hand = options | dict(inputs=prompt, generation_mode="audio", audio_streamer=made)
threading.excepthook = lambda failed: print(failed.exc_type.__name__)
threading.Thread(target=make_josie().generate, kwargs=by_hand, daemon=True).start()
reader, tokenizer = make_reader("embeddings, durations")
said = reader.speak_stream(["The heart is blue ", "and it looks "], tokenizer)
held = make_josie().generate_stream(prompt, **options)
next(made), next(said), next(held)
for piece in make_josie().generate_stream(prompt, **options):
    sys.exit(3)
"""


def test_a_script_that_leaves_streams_ends_with_its_own_exit_code():
    done = subprocess.run([sys.executable, "-c", LEFT.format(path=sys.path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "StreamClosedError\n", "")


class TestFailures:
    def test_a_streamer_that_fails_is_told_the_end(self):
        taker = Taker(fails=True)
        with pytest.raises(OSError, match="the loudspeaker was pulled out"):
            make_josie().generate(PROMPT, generation_mode="audio", audio_streamer=taker, **LIMITS)
        assert taker.num_ends == 1

    def test_who_waits_in_another_thread_is_not_left_waiting(self):
        streamer = josie.AudioIteratorStreamer()
        with pytest.raises(ValueError, match="image placeholders"):
            make_josie().generate(
                PROMPT, generation_mode="audio", audio_streamer=streamer, pixel_values=torch.rand(1, 3, 21, 21)
            )
        assert list(streamer) == []

    def test_text_that_fails_in_the_middle(self):
        """All that could be said before is said, and the failure comes behind it."""
        model, tokenizer = make_reader("embeddings, durations")

        def texts():
            yield "The heart is blue and it looks "
            raise RuntimeError("the other model stopped")

        taken = []
        pieces = model.speak_stream(texts(), tokenizer)
        with pytest.raises(RuntimeError, match="the other model stopped"):
            taken.extend(pieces)
        assert sum(int(piece.audio_lengths[0]) for piece in taken) > 0
        assert not any(piece.is_final for piece in taken)
        assert list(pieces) == []
