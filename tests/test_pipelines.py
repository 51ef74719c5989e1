"""transformers' pipelines for speech on a tiny JOSIE, and pipelines of every kind with several inputs."""

import importlib.util
import inspect
import warnings

import numpy as np
import pytest
import torch
from this_tree import ROOT
from tiny import CAUSAL_AUDIO_ENCODER, JODIO, MEL_CODEC, TEXT, THINKER
from transformers import (
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTextToWaveform,
    AutoProcessor,
    GenerationConfig,
    pipeline,
)

import josie
from josie.modeling_josie.speech_tasks import JosieForSpeechSeq2Seq

FRAMES = dict(talker_max_new_frames=4, talker_min_new_frames=4)
SPEECH = "tests/data/speech.wav"


@pytest.fixture(autouse=True)
def at_root(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForMultimodalLM.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def processor(tiny_folder):
    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def speak(tiny_folder):
    return pipeline("text-to-speech", model=str(tiny_folder))


@pytest.fixture(scope="module")
def hear(tiny_folder):
    return pipeline("automatic-speech-recognition", model=str(tiny_folder))


@pytest.fixture(scope="module")
def expected(model, processor):
    content = [{"type": "audio", "path": str(ROOT / SPEECH)}, {"type": "text", "text": "Write what you hear."}]
    chat = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    written = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
    return processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class TestTextToSpeech:
    def test_a_text_is_said_at_the_codecs_rate(self, speak, model, processor):
        said = speak("Hello you", generate_kwargs=FRAMES)
        expected = model.generate_speech(**processor.tokenizer(["Hello you"], return_tensors="pt"), **FRAMES)
        np.testing.assert_array_equal(said["audio"], expected.audio_values[0, 0].numpy())
        assert said["sampling_rate"] == model.config.audio_codec_config.sampling_rate == model.config.sampling_rate

    @pytest.mark.parametrize("batch_size", [None, 2])
    def test_several_texts_have_their_own_lengths(self, speak, batch_size):
        texts = ["Hello you", "Yes, and no"]
        options = dict(generate_kwargs=dict(talker_max_new_frames=9, talker_do_sample=True, talker_top_k=1))
        alone = [speak(text, **options)["audio"] for text in texts]
        for clip, expected in zip(speak(texts, batch_size=batch_size, **options), alone, strict=True):
            np.testing.assert_allclose(clip["audio"], expected, atol=1e-5)

    def test_padding_may_have_the_id_of_an_end(self, tiny_folder, processor):
        model = AutoModelForTextToWaveform.from_pretrained(tiny_folder)
        model.generation_config.eos_token_id = [2, model.generation_config.pad_token_id]
        speak = pipeline("text-to-speech", model=model, tokenizer=processor.tokenizer)
        texts = ["Hello you", "Yes, and no, and yes"]
        alone = [speak(text, generate_kwargs=FRAMES)["audio"] for text in texts]
        for clip, expected in zip(speak(texts, batch_size=2, generate_kwargs=FRAMES), alone, strict=True):
            np.testing.assert_allclose(clip["audio"], expected, atol=1e-5)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_the_token_before_a_text_may_be_an_end(self, tiny_folder, side):
        model = AutoModelForTextToWaveform.from_pretrained(tiny_folder)
        model.generation_config.bos_token_id = end = model.generation_config.eos_token_id
        size = (0, 2) if side == "right" else (2, 0)
        texts = torch.stack(
            (torch.tensor([end, 20, 21, 22, end]), torch.nn.functional.pad(torch.tensor([end, 30, end]), size))
        )
        said = model.generate(texts, (texts != 0).long(), **FRAMES)["audio"]
        expected = model.generate_speech(texts, (texts != 0).long(), **FRAMES).audio_values
        assert all(map(torch.equal, said, expected))
        chat, asked = torch.tensor([[end, 20, 21, end, 22]]), FRAMES | dict(max_new_tokens=3, min_new_tokens=3)
        answered = josie.JosieForConditionalGeneration.generate(model, chat, generation_mode="audio", **asked)
        assert torch.equal(model.generate(chat, **asked)["audio"][0], answered.audio_values[0])

    def test_a_configuration_speaks_too(self, speak):
        options = GenerationConfig(max_new_tokens=3, eos_token_id=2, **FRAMES)
        assert len(speak("Hello", generate_kwargs=dict(generation_config=options))["audio"]) == 4 * 48
        with pytest.raises(ValueError, match="`talker_temprature` must be one of"):
            speak("Hello", generate_kwargs=dict(generation_config=GenerationConfig(talker_temprature=3)))

    def test_a_voice_may_be_named(self, speak):
        assert len(speak("Hello", forward_params=FRAMES | dict(speaker="bob"))["audio"]) == 4 * 48
        with pytest.raises(ValueError, match="`speaker` must be one of .*, got 'eve'"):
            speak("Hello", forward_params=FRAMES | dict(speaker="eve"))

    def test_a_conversation_is_answered(self, speak, model, processor):
        chat = [{"role": "user", "content": "Hello"}]
        said = speak(chat, generate_kwargs=FRAMES | dict(max_new_tokens=3, min_new_tokens=3))
        inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
        expected = model.generate(**inputs, **FRAMES, max_new_tokens=3, min_new_tokens=3, generation_mode="audio")
        np.testing.assert_array_equal(said["audio"], expected.audio_values[0, 0].numpy())

    @pytest.mark.parametrize("options", [dict(do_sample=True), dict(temperature=0.5), dict(num_return_sequences=2)])
    @pytest.mark.parametrize("place", ["generate_kwargs", "forward_params"])
    def test_a_text_takes_no_option_of_answers(self, speak, options, place):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be None for a text, as no answer is"):
            speak("Hello", **{place: FRAMES | options})

    def test_several_answers_are_a_list(self, speak):
        chat = [{"role": "user", "content": "Hello"}]
        options = FRAMES | dict(max_new_tokens=3, min_new_tokens=3, num_return_sequences=2, do_sample=True)
        assert [len(clip) for clip in speak(chat, generate_kwargs=options)["audio"]] == [4 * 48] * 2
        assert [len(clip) for clip in speak([["Hello", "Yes"]], generate_kwargs=FRAMES)[0]["audio"]] == [4 * 48] * 2

    @pytest.mark.parametrize("given", ["Hello", [{"role": "user", "content": "Hello"}]], ids=["text", "chat"])
    def test_the_mode_is_speech(self, speak, given):
        with pytest.raises(ValueError, match="`generation_mode` must be 'audio' in this pipeline, got 'text'"):
            speak(given, generate_kwargs=FRAMES | dict(generation_mode="text"))
        assert len(speak(given, generate_kwargs=FRAMES | dict(generation_mode="audio"))["audio"]) == 4 * 48

    def test_what_it_cannot_do_is_refused(self, speak, processor):
        with pytest.raises(ValueError, match="takes only `talker_"):
            speak("Hello", generate_kwargs=dict(volume=3))
        with pytest.raises(ValueError, match="`talker_volume` must be one of"):
            speak("Hello", generate_kwargs=dict(talker_volume=3))
        ids = processor(text=["Hello", "a<|end|>b"])["input_ids"]
        with pytest.raises(ValueError, match=r"must be all texts or all conversations, got \[False, True\]"):
            speak.model.generate(ids)


class TestSpeechRecognition:
    OPTIONS = dict(generate_kwargs=dict(max_new_tokens=5, min_new_tokens=5, num_beams=1))

    def test_files_arrays_and_lists_are_written_down(self, hear, expected):
        waveform = josie.load_audio(SPEECH, hear.feature_extractor.sampling_rate)
        given = {"raw": waveform, "sampling_rate": hear.feature_extractor.sampling_rate}
        for clip in (waveform, given):
            assert hear(clip, **self.OPTIONS) == {"text": expected}
        both = hear([waveform, waveform[: len(waveform) // 2]], **self.OPTIONS)
        assert both[0] == {"text": expected}
        assert len(both) == 2

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_clips_of_other_lengths_are_one_batch(self, hear, side, monkeypatch):
        monkeypatch.setattr(hear.tokenizer, "padding_side", side)
        waveform = josie.load_audio(SPEECH, hear.feature_extractor.sampling_rate)
        clips = [waveform[:7000], waveform, waveform[-9000:]]
        alone = [hear(clip, **self.OPTIONS) for clip in clips]
        assert hear(clips, batch_size=3, **self.OPTIONS) == alone
        assert len({answer["text"] for answer in alone}) > 1

    def test_beams_are_searched_for_each_clip(self, hear):
        waveform = josie.load_audio(SPEECH, hear.feature_extractor.sampling_rate)
        assert isinstance(hear(waveform, generate_kwargs=dict(max_new_tokens=4, num_beams=3))["text"], str)

    @pytest.mark.parametrize("options", [dict(generation_mode="audio"), dict(num_return_sequences=2, do_sample=True)])
    def test_what_it_cannot_do_is_refused(self, hear, options):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            hear(josie.load_audio(SPEECH, hear.feature_extractor.sampling_rate), generate_kwargs=options)

    def test_clips_of_a_batch_are_each_heard_to_their_end(self, tiny_folder, processor):
        model = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_folder)
        waveform = josie.load_audio(SPEECH, processor.feature_extractor.sampling_rate)
        rate = processor.feature_extractor.sampling_rate
        clips = [(waveform, rate), (waveform[:7000], rate)]
        batch = processor.feature_extractor(clips, return_attention_mask=True)
        assert set(batch) == {"input_features", "attention_mask"}
        options = dict(max_new_tokens=5, min_new_tokens=5)
        together = model.generate(**batch, **options)
        for row, clip in enumerate(clips):
            alone = model.generate(**processor.feature_extractor(clip, return_attention_mask=True), **options)
            assert torch.equal(together[row], alone[0])
        asked = model.generate(**batch, **options, return_dict_in_generate=True, output_scores=True)
        assert torch.equal(asked.sequences, together)
        assert len(asked.scores) == 5

    @pytest.mark.parametrize("encoder", [CAUSAL_AUDIO_ENCODER, JODIO, MEL_CODEC], ids=["causal", "jodio", "mel codec"])
    def test_an_encoder_may_hear_samples(self, save_checkpoint, tmp_path, encoder):
        thinker = dict(
            THINKER, text_config=dict(TEXT, vocab_size=301, max_position_embeddings=256), audio_config=encoder
        )
        codec = {"audio_codec_config": encoder} if encoder is not CAUSAL_AUDIO_ENCODER else {}  # one for both ways
        folder = str(save_checkpoint(tmp_path / "model", thinker_config=thinker, **codec))
        processor, model = AutoProcessor.from_pretrained(folder), AutoModelForMultimodalLM.from_pretrained(folder)
        content = [{"type": "audio", "path": SPEECH}, {"type": "text", "text": "Write what you hear."}]
        chat = [{"role": "user", "content": content}]
        inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
        written = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
        expected = processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        hear = pipeline("automatic-speech-recognition", model=folder)
        waveform = josie.load_audio(SPEECH, hear.feature_extractor.sampling_rate)
        assert hear(waveform, **self.OPTIONS) == {"text": expected}
        half = waveform[: len(waveform) // 2]
        assert hear([half, waveform], batch_size=2, **self.OPTIONS) == [hear(half, **self.OPTIONS), {"text": expected}]

    def test_a_row_of_numbers_has_a_mask(self, tiny_folder):
        model = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_folder)
        for mask in (None, torch.ones(1, 7)):
            with pytest.raises(ValueError, match="`attention_mask` must be of shape .* got"):
                model.generate(torch.rand(1, 9 * 40), attention_mask=mask)

    def test_the_question_may_be_another(self, tiny_folder):
        model = JosieForSpeechSeq2Seq.from_pretrained(pretrained_model_name_or_path=tiny_folder)
        prompt = model.generation_config.transcription_prompt_ids
        assert prompt.count(model.config.thinker_config.audio_token_id) == 1
        batch = dict(input_features=torch.rand(1, 9, 40))
        before = model.generate(**batch, max_new_tokens=5)
        model.generation_config.transcription_prompt_ids = [*prompt, 40, 41, 42]
        assert not torch.equal(model.generate(**batch, max_new_tokens=5), before)
        model.generation_config.transcription_prompt_ids = [40, 41]
        with pytest.raises(ValueError, match="must be tokens with one audio placeholder"):
            model.generate(**batch)
        with pytest.raises(ValueError, match="`input_features` must be given, got None"):
            AutoModelForSpeechSeq2Seq.from_pretrained(tiny_folder).generate()


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="these pipelines demand torchvision")
@pytest.mark.parametrize("part", ["whole", "thinker"])
@pytest.mark.parametrize("task", ["any-to-any", "image-text-to-text"])
def test_several_inputs_of_different_lengths(task, part, tiny_folder, tmp_path, model, processor):
    folder = tiny_folder
    if part == "thinker":
        folder = tmp_path
        model.thinker.save_pretrained(folder)
        processor.save_pretrained(folder)
    image = {"type": "image", "path": "tests/data/picture.png"}
    chats = [
        [{"role": "user", "content": [image, {"type": "text", "text": text}]}]
        for text in ("What is this?", "Tell me what this is, please.")
    ]
    pipe = pipeline(task, model=str(folder))
    options = dict(max_new_tokens=4, return_full_text=False)
    alone = [pipe(text=chat, **options)[0]["generated_text"] for chat in chats]
    for batch_size in (None, 2):
        together = pipe(text=chats, batch_size=batch_size, **options)
        assert [answer[0]["generated_text"] for answer in together] == alone


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the pipeline demands torchvision")
def test_generated_audio_knows_its_rate(tiny_folder):
    pipe = pipeline("any-to-any", model=str(tiny_folder))
    chat = [{"role": "user", "content": "Hello"}]
    clip = pipe(text=chat, generation_mode="audio", max_new_tokens=3, generate_kwargs=FRAMES)[0]["generated_audio"]
    assert clip.sampling_rate == clip[:10].sampling_rate == pipe.model.sampling_rate == 1600
    assert torch.from_numpy(clip).shape == (4 * 48,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(clip).dtype == np.float32


def test_a_text_may_come_first_and_a_path_is_an_image(processor):
    first = processor(["Hello you"])
    assert torch.equal(first["input_ids"], processor(text=["Hello you"])["input_ids"])
    assert "pixel_values" in processor("tests/data/picture.png")
    with pytest.raises(ValueError, match="`images` must be an existing file"):
        processor("tests/data/no_picture.png")


def test_arguments_of_a_call_default_to_none():
    """As of every processor of transformers: a default would hide what a configuration says."""
    parameters = inspect.signature(josie.JosieProcessor.__call__).parameters.values()
    named = [value for value in parameters if value.name != "self" and value.kind is not value.VAR_KEYWORD]
    assert {value.default for value in named} == {None}


def test_a_model_for_waveforms_is_taken_as_an_object(tiny_folder, processor):
    model = AutoModelForTextToWaveform.from_pretrained(tiny_folder)
    options = dict(generate_kwargs=FRAMES)
    said = pipeline("text-to-speech", model=model, tokenizer=processor.tokenizer)("Hello", **options)
    expected = pipeline("text-to-speech", model=str(tiny_folder))("Hello", **options)
    assert np.array_equal(said["audio"], expected["audio"])
    assert said["sampling_rate"] == expected["sampling_rate"] == 1600
