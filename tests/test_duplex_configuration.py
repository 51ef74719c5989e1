"""Units in configurations: what they are counted from, and which models cannot have them."""

import re

import pytest
import torch
from duplex_models import ENCODER, LISTEN, UNITS, duplex_config, make_pair
from huggingface_hub.errors import StrictDataclassError
from tiny import AUDIO_ENCODER, JODIO, MEL_CODEC, TALKER, TEXT, build, josie_config

import josie
from josie.configuration_josie import hears_in_units, split_into_units


def test_units_are_counted_from_the_configuration_alone():
    config = duplex_config()
    thinker = config.thinker_config
    assert (thinker.unit_samples, thinker.unit_sampling_rate, thinker.unit_seconds) == (60, 1600, 0.0375)
    assert [thinker.get_num_units(length) for length in (0, 1, 60, 61)] == [0, 1, 1, 2]
    assert config.unit_speech_frames == 3
    assert duplex_config(codec="mimi").thinker_config.unit_samples == 240
    # It may hear through another input than it speaks through.
    other = duplex_config(codec="encoder")
    assert (other.thinker_config.unit_samples, other.unit_speech_frames) == (120, 6)
    assert duplex_config(codec="encoder", audio_stack_factor=1).unit_speech_frames == 3


@pytest.mark.parametrize(
    ("durations", "frames", "delay", "counts"),
    [
        ([], 6, 0, [0]),
        ([3.0, 3.0, 3.0], 6, 2, [3, 0]),
        ([3.0, 3.0, 3.0], 6, 0, [2, 1]),
        ([20.0], 6, 0, [1, 0, 0, 0]),
        ([2.5, 0.0, 3.2, 0.0, 0.1], 6, 0, [3, 2]),
        ([5.6, 0.0, 0.1], 6, 0, [1, 2]),
    ],
)
def test_tokens_fill_units(durations, frames, delay, counts):
    assert split_into_units(durations, frames, delay) == counts


@pytest.mark.parametrize(
    ("durations", "counts"),
    [([3.0] * 4, [3, 1]), ([3.0, 0.0, 3.0, 3.0], [4, 0]), ([20.0], [1]), ([20.0, 20.0], [2, 0, 0, 0])],
)
def test_a_duration_is_known_when_the_next_token_is_written(durations, counts):
    assert split_into_units(durations, 6, 0, right_context=1) == counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(unit_frames=0), "`unit_frames` must be at least 1, got 0."),
        (dict(unit_frames=None), f"`listen_token_id` must be None without `unit_frames`, got {LISTEN}."),
        (
            dict(unit_frames=None, listen_token_id=None, speak_token_id=None, start_bias=-1.0),
            "`start_bias` must be 0 without `unit_frames`, got -1.0.",
        ),
        (dict(unit_window=1), "`unit_window` must be at least 2, got 1."),
        (dict(speak_token_id=None), "`speak_token_id` must be an id in .* of its own"),
        (
            dict(speak_token_id=LISTEN),
            "`speak_token_id` must be an id in .* of its own",
        ),
        (
            dict(listen_token_id=8),
            r"`listen_token_id` must be an id in \[0, 53\) of its own .*, got 8.",
        ),
        (dict(listen_token_id=53), r"`listen_token_id` must be an id in \[0, 53\) of its own with"),
        (dict(start_bias=float("nan")), "`start_bias` must be a finite number, got nan."),
        (
            dict(audio_context_fraction=0.5),
            "`audio_context_fraction` must be 1 with `unit_frames`, as a session",
        ),
        (
            dict(audio_config=AUDIO_ENCODER),
            "`audio_config` must stream with `unit_frames`, .* got a 'josie_audio_encoder' that",
        ),
        (
            dict(audio_config=MEL_CODEC),
            "`audio_config` must stream with `unit_frames`, .* got a 'josie_mel_codec' that",
        ),
        (dict(audio_config=ENCODER | dict(mel_lookahead=2)), "`audio_config.mel_lookahead` must be 0 with .*, got 2."),
        (dict(audio_config=ENCODER | dict(is_causal=False)), "`audio_config` must stream with `unit_frames`, .* got"),
        (dict(audio_config=None), "`audio_config` must stream with `unit_frames`, .* got no audio input."),
    ],
)
def test_thinkers_that_cannot_have_units(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        josie.JosieThinkerConfig(**(dict(text_config=TEXT, audio_config=JODIO) | UNITS | changes))


def test_models_that_cannot_have_units():
    thinker = dict(text_config=TEXT, audio_config=JODIO) | UNITS
    with pytest.raises(StrictDataclassError, match="`thinker_config.unit_frames` must be None without a Talker and"):
        josie.JosieConfig(thinker_config=thinker)
    hearing = dict(audio_config=ENCODER)
    talker = TALKER | dict(codebook_size=11)
    with pytest.raises(
        StrictDataclassError, match="`audio_codec_config` must be one of .* got 'josie_mel_codec', which"
    ):
        josie_config(thinker_config=thinker | hearing, talker_config=talker, audio_codec_config=MEL_CODEC)
    hearing = dict(audio_config=ENCODER | dict(mel_hop_length=4), unit_frames=1)
    with pytest.raises(
        StrictDataclassError, match="`unit_frames` must make a whole number of frames .* which are 0.8."
    ):
        josie_config(thinker_config=thinker | hearing, talker_config=talker, audio_codec_config=JODIO)
    assert not hears_in_units(None)


def test_a_model_that_was_not_trained_for_sessions_is_refused():
    model = build(josie.JosieForConditionalGeneration, josie_config())
    with pytest.raises(ValueError, match="`thinker_config.unit_frames` must be set for a session: the model must have"):
        model.start_session(None)


def test_decisions_are_neither_written_in_turns_nor_spoken():
    model, processor = make_pair()
    thinker = model.config.thinker_config
    decisions = {thinker.listen_token_id, thinker.speak_token_id}
    assert decisions <= set(model.generation_config.suppress_tokens)
    assert decisions <= model._silent_tokens()
    names = processor.tokenizer.convert_ids_to_tokens(sorted(decisions))
    assert names == ["<|listen|>", "<|speak|>"]
    ids = processor(text="<|listen|>a<|speak|>")["input_ids"]
    assert decisions <= set(ids[0].tolist())
    assert not model.get_speech_mask(ids)[torch.isin(ids, torch.tensor(sorted(decisions)))].any()


def test_units_are_added_or_nothing_is_changed(tmp_path):
    model, processor = make_pair()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = josie.JosieForConditionalGeneration.from_pretrained(tmp_path)
    other = josie.JosieProcessor.from_pretrained(tmp_path)
    assert loaded.config.thinker_config.listen_token_id == model.config.thinker_config.listen_token_id
    assert other.thinker_config.unit_samples == model.config.thinker_config.unit_samples
    assert loaded.start_session(other, talker_seed=0).push([0.0] * 60).num_units == 1
    again = josie.add_units(model, processor, 4, unit_window=9)
    assert (again.thinker_config.unit_frames, again.thinker_config.unit_window) == (4, 9)
    assert len(processor.tokenizer) == model.config.thinker_config.text_config.vocab_size == 303
    # A model that hears all of a clip at once.
    config = josie_config()
    config.thinker_config.text_config.vocab_size = 301
    whole = build(josie.JosieForConditionalGeneration, config)
    tokenizer = josie.load_default_tokenizer(301)
    processor = josie.JosieProcessor.from_config(config, tokenizer)
    with pytest.raises(
        StrictDataclassError, match=re.escape("`audio_config` must stream with `unit_frames`, as JODIO")
    ):
        josie.add_units(whole, processor, 3)
    assert len(tokenizer) == 301
    assert whole.config.thinker_config.unit_frames is None
