"""Speech while it is written: the pieces joined are what comes at once, for who takes them in any way."""

import asyncio
import time

import pytest
import torch
from speech_pieces import LIMITS, MIMI, TALKERS, assert_same, make_josie, make_reader, threads
from tiny import JODIO, JODIO_MEL, thinker_inputs

import josie
from josie.modeling_josie.codecs.inference import HasInferenceForm
from josie.modeling_josie.outputs import SpeechPiece
from josie.modeling_josie.speech.pieces import make_in_thread

SAMPLED = dict(do_sample=True, temperature=0.9, talker_do_sample=True, talker_temperature=0.8)


def prompt() -> dict[str, torch.Tensor]:
    inputs = thinker_inputs()
    return {name: value for name, value in inputs.items() if name not in ("labels", "position_ids")}


def whole_times(whole, row: int, prompt_length: int) -> list[josie.WordTime]:
    times = enumerate(whole.word_times[row, prompt_length:].tolist())
    return [josie.WordTime(token, begin, end) for token, (begin, end) in times if begin == begin]


def fits(time: josie.WordTime, num_samples: int, whole) -> bool:
    return time.end * whole.sampling_rate <= num_samples + 0.5


class TestAnswer:
    @pytest.mark.parametrize("codec", [JODIO, JODIO_MEL, MIMI], ids=["waveform", "mel", "mimi"])
    @pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("talker", TALKERS)
    def test_pieces_joined_are_the_whole(self, talker, options, codec):
        model, inputs = make_josie(talker, codec), prompt()
        torch.manual_seed(7)
        whole = model.generate(**inputs, generation_mode="audio", **LIMITS, **options)
        torch.manual_seed(7)
        assert_same(model.generate_stream(**inputs, **LIMITS, **options), whole, inputs["input_ids"].shape[1])

    def test_what_was_heard_when_speech_was_stopped(self):
        """The same tokens, whether the whole is asked or the pieces that were taken."""
        model, inputs = make_josie(), prompt()
        length = inputs["input_ids"].shape[1]
        whole = model.generate(**inputs, generation_mode="audio", **LIMITS)
        pieces, played = model.generate_stream(**inputs, **LIMITS), [0, 0]
        for piece in pieces:
            for row, num_samples in enumerate(piece.audio_lengths.tolist()):
                played[row] += num_samples
                heard = [time.token for time in whole_times(whole, row, length) if fits(time, played[row], whole)]
                assert pieces.spoken_until(played[row], row) == (heard[-1] + 1 if heard else 0)
                assert whole.spoken_until(played[row], row) == (length + heard[-1] + 1 if heard else length)
        last = whole.word_times[:, :, 1].isfinite().long().cumsum(dim=1).argmax(dim=1)
        assert [whole.spoken_until(samples, row) for row, samples in enumerate(played)] == (last + 1).tolist()

    @pytest.mark.parametrize(
        "options", [dict(use_cache=False), dict(cache_implementation="static", disable_compile=True)], ids=str
    )
    def test_caches_of_all_kinds(self, options):
        model, inputs = make_josie(), prompt()
        whole = model.generate(**inputs, generation_mode="audio", **LIMITS, **options)
        assert_same(model.generate_stream(**inputs, **LIMITS, **options), whole, inputs["input_ids"].shape[1])

    def test_the_codec_is_prepared_meanwhile_and_left_as_it_was(self):
        model, ids = make_josie(codec=JODIO_MEL), torch.tensor([[1, 20, 21, 22]])
        parts = [part for part in model.audio_codec.modules() if isinstance(part, HasInferenceForm)]
        pieces = model.generate_stream(ids, **LIMITS)
        next(pieces)
        assert all(part.has_form for part in parts)
        list(pieces)
        assert not any(part.has_form for part in parts)
        model.audio_codec.prepare_for_inference()
        list(model.generate_stream(ids, **LIMITS))
        assert all(part.has_form for part in parts)

    def test_an_answer_says_what_its_text_read_aloud_says(self):
        """The states of the pass that writes are those of a pass over all of it."""
        model, ids = make_josie(), torch.tensor([[1, 20, 21, 22]])
        spoken = model.generate(ids, generation_mode="audio", **LIMITS)
        mask = torch.zeros_like(spoken.sequences)
        mask[:, 4:] = model.get_speech_mask(spoken.sequences[:, 4:])
        read = model.generate_speech(spoken.sequences, speech_mask=mask, talker_max_new_frames=40)
        assert torch.equal(spoken.audio_codes, read.audio_codes)
        torch.testing.assert_close(spoken.audio_values, read.audio_values, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("most", "cut"), [(3, [True, True]), (None, [False, False])])
    def test_it_says_whether_speech_was_cut(self, most, cut):
        # With an end that it never learned this Talker would run away.
        model, _ = make_reader("embeddings, durations", end_of_speech=False)
        inputs = dict(input_ids=torch.tensor([[20, 21, 22], [23, 24, 25]]))
        options = dict(max_new_tokens=4, min_new_tokens=4, talker_max_new_frames=most)
        pieces = list(model.generate_stream(**inputs, **options))
        assert pieces[-1].is_cut == cut
        assert model.generate(**inputs, generation_mode="audio", **options).is_cut.tolist() == cut
        ids = torch.tensor([[20, 21, 22]])
        assert model.generate_speech(ids, talker_max_new_frames=most).is_cut.tolist() == cut[:1]

    def test_audio_comes_before_the_last_word(self):
        model = make_josie("embeddings, durations")
        ids = torch.tensor([[1, 20, 21, 22]])
        pieces = list(model.generate_stream(ids, max_new_tokens=12, min_new_tokens=12, talker_min_new_frames=20))
        written, heard = 0, []
        for piece in pieces:
            written += piece.sequences.shape[1]
            heard += [written] * bool(piece.audio_lengths.any())
        assert heard[0] < 12
        assert written == 12

    def test_a_text_streamer_has_the_tokens_too(self):
        class Tokens:
            def __init__(self):
                self.ids, self.ended = [], 0

            def put(self, value):
                self.ids += value.flatten().tolist()

            def end(self):
                self.ended += 1

        model, ids, streamer = make_josie(), torch.tensor([[1, 20, 21]]), Tokens()
        whole = model.generate(ids, generation_mode="audio", streamer=streamer, **LIMITS)
        assert streamer.ids == whole.sequences[0].tolist()
        assert streamer.ended == 1

    def test_beams_are_read_once_more_and_spoken(self):
        model, ids = make_josie(), torch.tensor([[1, 20, 21]])
        whole = model.generate(ids, generation_mode="audio", num_beams=2, num_return_sequences=2, **LIMITS)
        assert whole.audio_values.shape[0] == 2


class TestTaking:
    def test_who_stops_early_leaves_nothing_behind(self):
        model = make_josie()
        with model.generate_stream(torch.tensor([[1, 20, 21]]), max_new_tokens=60, min_new_tokens=60) as pieces:
            next(pieces)
        assert threads() == []
        assert list(pieces) == []

    def test_what_fails_is_raised_where_pieces_are_taken(self):
        pieces = make_josie().generate_stream(torch.tensor([[1, 20, 21]]), pixel_values=torch.rand(1, 3, 21, 21))
        with pytest.raises(ValueError, match="image placeholders"):
            next(pieces)
        assert threads() == []

    def test_in_asyncio(self):
        model, ids = make_josie(), torch.tensor([[1, 20, 21]])
        whole = model.generate(ids, generation_mode="audio", **LIMITS)

        async def take():
            return [piece async for piece in model.generate_stream(ids, **LIMITS)]

        assert_same(asyncio.run(take()), whole, 3)

    def test_making_waits_for_who_is_slow(self):
        made = []

        def make_many(streamer):
            for number in range(50):
                made.append(number)
                streamer.put(SpeechPiece(torch.tensor([[number]]), torch.zeros(1, 1, 0), torch.zeros(1), 16000))

        with make_in_thread(make_many, max_waiting=3) as pieces:
            assert next(pieces).sequences.item() == 0
            time.sleep(0.3)
            assert len(made) <= 6
