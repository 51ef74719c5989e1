"""Speech while it is written: the pieces joined are what comes at once, for who takes them in any way."""

import asyncio
import threading
import time

import pytest
import torch
from tiny import DEPTH, JODIO, JODIO_MEL, TALKER, build, josie_config, thinker_inputs
from transformers import TextIteratorStreamer

import josie
from josie.modeling_josie.speech.pieces import FlowingText, SpeechPieces

TALKERS = {
    "states": dict(),
    "states, depth, durations": dict(depth_decoder_config=DEPTH, learns_durations=True, frames_per_token=2),
    "embeddings, durations": dict(reads_thinker_states=False, learns_durations=True, frames_per_token=3),
}
SAMPLED = dict(do_sample=True, temperature=0.9, talker_do_sample=True, talker_temperature=0.8)
LIMITS = dict(max_new_tokens=7, talker_max_new_frames=40)


def make(talker="states, depth, durations", codec=JODIO):
    config = josie_config(talker_config=TALKER | TALKERS[talker], audio_codec_config=codec)
    return build(josie.JosieForConditionalGeneration, config)


def prompt() -> dict[str, torch.Tensor]:
    inputs = thinker_inputs()
    return {name: value for name, value in inputs.items() if name not in ("labels", "position_ids")}


def join(pieces) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the tokens, and the samples of each row."""
    pieces = list(pieces)
    assert [piece.is_final for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    rows = [
        torch.cat([piece.audio_values[row, :, : piece.audio_lengths[row]] for piece in pieces], dim=-1)
        for row in range(pieces[0].sequences.shape[0])
    ]
    return torch.cat([piece.sequences for piece in pieces], dim=1), rows


def assert_same(pieces, whole, prompt_length: int) -> None:
    ids, rows = join(pieces)
    assert torch.equal(ids, whole.sequences[:, prompt_length:])
    assert any(row.shape[-1] for row in rows)
    for row, values, length in zip(rows, whole.audio_values, whole.audio_lengths, strict=True):
        assert torch.equal(row, values[:, :length])


class TestAnswer:
    @pytest.mark.parametrize("codec", [JODIO, JODIO_MEL], ids=["waveform", "mel"])
    @pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("talker", TALKERS)
    def test_pieces_joined_are_the_whole(self, talker, options, codec):
        model, inputs = make(talker, codec), prompt()
        torch.manual_seed(7)
        whole = model.generate(**inputs, generation_mode="audio", **LIMITS, **options)
        torch.manual_seed(7)
        assert_same(model.generate_stream(**inputs, **LIMITS, **options), whole, inputs["input_ids"].shape[1])

    @pytest.mark.parametrize(
        "options", [dict(use_cache=False), dict(cache_implementation="static", disable_compile=True)], ids=str
    )
    def test_caches_of_all_kinds(self, options):
        model, inputs = make(), prompt()
        whole = model.generate(**inputs, generation_mode="audio", **LIMITS, **options)
        assert_same(model.generate_stream(**inputs, **LIMITS, **options), whole, inputs["input_ids"].shape[1])

    def test_an_answer_says_what_its_text_read_aloud_says(self):
        """The states of the pass that writes are those of a pass over all of it."""
        model, ids = make(), torch.tensor([[1, 20, 21, 22]])
        spoken = model.generate(ids, generation_mode="audio", **LIMITS)
        mask = torch.zeros_like(spoken.sequences)
        mask[:, 4:] = model.get_speech_mask(spoken.sequences[:, 4:])
        read = model.generate_speech(spoken.sequences, speech_mask=mask, talker_max_new_frames=40)
        assert torch.equal(spoken.audio_codes, read.audio_codes)
        torch.testing.assert_close(spoken.audio_values, read.audio_values, rtol=1e-4, atol=1e-5)

    def test_sound_comes_before_the_last_word(self):
        model = make("embeddings, durations")
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

        model, ids, streamer = make(), torch.tensor([[1, 20, 21]]), Tokens()
        whole = model.generate(ids, generation_mode="audio", streamer=streamer, **LIMITS)
        assert streamer.ids == whole.sequences[0].tolist()
        assert streamer.ended == 1

    def test_beams_are_read_once_more_and_spoken(self):
        model, ids = make(), torch.tensor([[1, 20, 21]])
        whole = model.generate(ids, generation_mode="audio", num_beams=2, num_return_sequences=2, **LIMITS)
        assert whole.audio_values.shape[0] == 2

    @pytest.mark.parametrize("options", [dict(num_beams=2), dict(num_return_sequences=2, do_sample=True)], ids=str)
    def test_what_may_change_is_not_streamed(self, options):
        with pytest.raises(ValueError, match="`audio_streamer` must be None with beams, several sequences or"):
            list(make().generate_stream(torch.tensor([[1, 20, 21]]), **LIMITS, **options))

    def test_a_codec_of_whole_utterances_is_refused(self):
        model = build(josie.JosieForConditionalGeneration, josie_config())
        with pytest.raises(ValueError, match="`audio_codec` must be one of .*, got 'josie_mel_codec'"):
            model.generate_stream(torch.tensor([[1, 20, 21]]))
        with pytest.raises(ValueError, match="`audio_codec` must be one of .*, got 'josie_mel_codec'"):
            model.speak_stream("Hello.", None)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "josie-speech"]


class TestTaking:
    def test_who_stops_early_leaves_nothing_behind(self):
        model = make()
        with model.generate_stream(torch.tensor([[1, 20, 21]]), max_new_tokens=60, min_new_tokens=60) as pieces:
            next(pieces)
        assert threads() == []
        assert list(pieces) == []

    def test_what_fails_is_raised_where_pieces_are_taken(self):
        pieces = make().generate_stream(torch.tensor([[1, 20, 21]]), pixel_values=torch.rand(1, 3, 21, 21))
        with pytest.raises(ValueError, match="image placeholders"):
            next(pieces)
        assert threads() == []

    def test_in_asyncio(self):
        model, ids = make(), torch.tensor([[1, 20, 21]])
        whole = model.generate(ids, generation_mode="audio", **LIMITS)

        async def take():
            return [piece async for piece in model.generate_stream(ids, **LIMITS)]

        assert_same(asyncio.run(take()), whole, 3)

    def test_making_waits_for_who_is_slow(self):
        made = []

        def make_many(put):
            for number in range(50):
                made.append(number)
                put(number)

        with SpeechPieces(make_many, max_waiting=3) as pieces:  # type: ignore[arg-type]
            assert next(pieces) == 0
            time.sleep(0.3)
            assert len(made) <= 6


class TestFlowingText:
    TEXT = "The heart is blue.  It looks\tsmall, doesn't it? 1984!"

    @pytest.mark.parametrize("size", [1, 3, 7, 100])
    def test_tokens_are_those_of_the_whole(self, size):
        tokenizer = josie.load_default_tokenizer(301)
        flowing, ids = FlowingText(tokenizer), []
        for start in range(0, len(self.TEXT), size):
            ids += flowing.add(self.TEXT[start : start + size])
        ids += flowing.finish()
        assert ids == tokenizer(self.TEXT, add_special_tokens=False)["input_ids"]

    def model(self, talker):
        text = dict(josie_config().thinker_config.text_config.to_dict(), vocab_size=301, max_position_embeddings=256)
        thinker = dict(text_config=text)
        config = josie_config(thinker_config=thinker, talker_config=TALKER | TALKERS[talker], audio_codec_config=JODIO)
        return build(josie.JosieForConditionalGeneration, config), josie.load_default_tokenizer(301)

    @pytest.mark.parametrize("talker", TALKERS)
    def test_it_is_said_as_if_all_were_there(self, talker):
        model, tokenizer = self.model(talker)
        ids = tokenizer([self.TEXT], return_tensors="pt", add_special_tokens=False)["input_ids"]
        whole = model.generate_speech(ids, talker_max_new_frames=90)
        pieces = model.speak_stream(
            (self.TEXT[start : start + 5] for start in range(0, 60, 5)), tokenizer, talker_max_new_frames=90
        )
        said, rows = join(pieces)
        assert torch.equal(said, ids)
        if talker.startswith("embeddings"):
            assert torch.equal(rows[0], whole.audio_values[0])
        else:  # states made word by word
            torch.testing.assert_close(rows[0], whole.audio_values[0], rtol=1e-3, atol=1e-4)

    def test_text_that_fails_fails(self):
        model, tokenizer = self.model("embeddings, durations")

        def texts():
            yield "The heart "
            raise RuntimeError("the other model stopped")

        with pytest.raises(RuntimeError, match="the other model stopped"):
            list(model.speak_stream(texts(), tokenizer))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ([], "`text` must have at least one word to say, got none"),
            (["", " "], None),
            ([3], "`text` must give strings, got int"),
        ],
    )
    def test_bad_text(self, text, message):
        model, tokenizer = self.model("embeddings, durations")
        if message is None:
            assert list(model.speak_stream(text, tokenizer, talker_max_new_frames=5))[-1].is_final
            return
        with pytest.raises(ValueError, match=message):
            list(model.speak_stream(text, tokenizer))

    def test_another_models_streamer_is_a_text(self):
        model, tokenizer = self.model("embeddings, durations")
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        writer = threading.Thread(
            target=model.thinker.generate,
            args=(torch.tensor([[20, 21]]),),
            kwargs=dict(streamer=streamer, max_new_tokens=6),
        )
        writer.start()
        pieces = list(model.speak_stream(streamer, tokenizer, talker_max_new_frames=20))
        writer.join()
        assert pieces[-1].is_final
