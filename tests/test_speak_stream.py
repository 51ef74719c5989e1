"""Text that flows in is said while it is written, by whomever; the same as if all of it were there."""

import gc
import threading

import pytest
import torch
from speech_pieces import TALKERS, assert_same, join, make_reader
from transformers import TextIteratorStreamer

import josie
from josie.modeling_josie.speech.flowing_text import FlowingText
from josie.modeling_josie.speech.reading import ReadingCuts


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

    @pytest.mark.parametrize("talker", TALKERS)
    def test_it_is_said_as_if_all_were_there(self, talker):
        model, tokenizer = make_reader(talker)
        ids = tokenizer([self.TEXT], return_tensors="pt", add_special_tokens=False)["input_ids"]
        options = dict(talker_max_new_frames=90, talker_sentence_end_ids=josie.find_sentence_ends(tokenizer))
        whole = model.generate_speech(ids, **options)
        pieces = model.speak_stream((self.TEXT[start : start + 5] for start in range(0, 60, 5)), tokenizer, **options)
        said, rows = join(pieces := list(pieces))
        assert torch.equal(said, ids)
        if talker.startswith("embeddings"):
            assert_same(pieces, whole, 0)
        else:  # states made word by word
            torch.testing.assert_close(rows[0], whole.audio_values[0], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ([], "`text` must have at least one word to say, got none"),
            (["", " ", "\n"], "`text` must have at least one word to say, got none"),
            (["Hello ", 3], "`text` must give strings, got int"),
            (["a\ud83d", "\ude00 b"], "`text` must be text without halves of surrogate pairs"),
            (3, "`text` must be a string, or give strings, got int"),
        ],
    )
    def test_bad_text(self, text, message):
        model, tokenizer = make_reader("embeddings, durations")
        with pytest.raises(ValueError, match=message):
            list(model.speak_stream(text, tokenizer))

    def test_another_models_streamer_is_a_text(self):
        model, tokenizer = make_reader("embeddings, durations")
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


class TestLongText:
    TEXT = "The heart is blue. " * 12

    @pytest.mark.parametrize("talker", TALKERS)
    def test_it_is_said_in_parts_that_stream(self, talker):
        """The Thinker has fewer positions than the text, and the Talker too."""
        model, tokenizer = make_reader(talker, thinker_positions=48)
        ids = tokenizer([self.TEXT], return_tensors="pt", add_special_tokens=False)["input_ids"]
        assert ids.shape[1] > 3 * 48
        options = dict(talker_max_new_frames=900)
        whole = model.generate_speech(ids, tokenizer=tokenizer, **options)
        pieces = list(model.speak_stream(self.TEXT, tokenizer, **options))
        said, rows = join(pieces)
        assert torch.equal(said, ids)
        if talker.startswith("embeddings"):
            assert_same(pieces, whole, 0)
        else:
            torch.testing.assert_close(rows[0], whole.audio_values[0], rtol=1e-3, atol=1e-4)

    def test_each_part_is_read_as_if_alone(self):
        model, tokenizer = make_reader("states", thinker_positions=48)
        ids = tokenizer([self.TEXT], return_tensors="pt", add_special_tokens=False)["input_ids"]
        ends = josie.find_sentence_ends(tokenizer)
        parts = ReadingCuts(48, ends).cut(ids[0].tolist())
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert all(24 < len(part) <= 48 for part in parts[:-1])
        assert all(int(ids[0, part.stop - 1]) in ends for part in parts[:-1])
        padded = torch.nn.functional.pad(ids, (3, 0))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
        with torch.no_grad():
            embeds = model.get_input_embeddings()(padded)
            states = model._read(embeds, mask, padded, ends)[:, 3:]
            for part in parts:
                alone = model.thinker.model(input_ids=ids[:, part.start : part.stop]).last_hidden_state
                torch.testing.assert_close(states[:, part.start : part.stop], alone, rtol=1e-4, atol=1e-5)

    def test_text_is_let_go(self):
        """Tokens of a text that never ends, which is not tokenized from its beginning for ever."""
        tokenizer = josie.load_default_tokenizer(301)
        flowing, ids, text = FlowingText(tokenizer), [], "".join(f"{number} words, and more. " for number in range(250))
        for start in range(0, len(text), 11):
            ids += flowing.add(text[start : start + 11])
            assert len(flowing._text) < 2100
        ids += flowing.finish()
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]

    @pytest.mark.slow
    def test_minutes_in_bounded_memory(self):
        """No tensor is left of what was said: as many live after one minute as after three, but for times."""
        model, tokenizer = make_reader("embeddings, durations", end_of_speech=False)
        rate, seconds, sizes = model.sampling_rate, 0.0, {}
        frame_seconds = 1 / model.config.audio_codec_config.frame_rate
        for piece in model.speak_stream(("Ten more words of it. " for _ in range(100000)), tokenizer):
            seconds += int(piece.audio_lengths[0]) / rate
            minute = int(seconds // (60 * frame_seconds / 0.08))  # frames as long as at 12.5 a second
            if minute in (1, 3) and minute not in sizes:
                sizes[minute] = sum(thing.nbytes for thing in gc.get_objects() if type(thing) is torch.Tensor)
            if minute == 3:
                break
        assert sizes[3] < 1.1 * sizes[1]


def test_tokens_that_end_sentences():
    tokenizer = josie.load_default_tokenizer(301)
    ends = josie.find_sentence_ends(tokenizer)
    assert {tokenizer.decode([token]).strip() for token in ends} >= {".", "!", "?"}
    ids = tokenizer("It is 3.5, or not? Yes.", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in ids if token in ends] == [".", "?", "."]
    assert josie.find_sentence_ends(tokenizer) is ends
    tokenizer.add_tokens(["Well!"])
    assert set(josie.find_sentence_ends(tokenizer)) == {*ends, tokenizer.convert_tokens_to_ids("Well!")}
