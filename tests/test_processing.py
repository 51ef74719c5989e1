"""Laws of the processor: placeholders and inputs agree, a row of a batch is the row alone, errors are named."""

import base64
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from samples import (
    AUDIO_ENCODER,
    AUDIO_ID,
    CONTEXT,
    IMAGE,
    IMAGE_ID,
    SPEECH,
    TOWER,
    VIDEO,
    VIDEO_ID,
    short,
    thinker_config,
    tone,
)
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
)
from transformers.utils import logging as transformers_logging

from josie import JosieDataCollator
from josie.configuration_josie import (
    JosieConfig,
)
from josie.processing_josie import JosieProcessor, audio, clip_inputs, feature_extraction
from josie.processing_josie.audio import as_waveform as audio_as_waveform
from josie.tokenization import load_default_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_default_tokenizer()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return JosieProcessor.from_config(
        JosieConfig(
            thinker_config=thinker_config(audio_config=AUDIO_ENCODER, vision_config=TOWER),
            audio_codec_config={"model_type": "josie_mel_codec", "sampling_rate": 8000},
        ),
        tokenizer,
    )


@pytest.fixture(scope="module")
def codec_processor(tokenizer):
    return JosieProcessor.from_config(
        thinker_config(audio_config={"model_type": "jodio"}, vision_config={"model_type": "jovio", "patch_size": 8}),
        tokenizer,
    )


def count(ids: torch.Tensor, token_id: int) -> list[int]:
    return (ids == token_id).sum(dim=-1).tolist()


def test_text_alone(processor, tokenizer):
    output = processor(text=["Hello", "Hello there, you"])
    assert sorted(output) == ["attention_mask", "input_ids"]
    assert output["attention_mask"][0].tolist() == [0] * int((1 - output["attention_mask"][0]).sum()) + [1, 1]
    assert processor.batch_decode(output["input_ids"], skip_special_tokens=True) == ["Hello", "Hello there, you"]
    assert output["input_ids"][1].tolist() == tokenizer("Hello there, you")["input_ids"]
    assert processor(text="Hi", add_special_tokens=False)["input_ids"][0, 0] != tokenizer.bos_token_id


def test_inputs_of_plain_text_go_in_front_of_it_in_order(processor, tokenizer):
    output = processor(text="Hi", images=IMAGE, videos=VIDEO, audio=SPEECH)
    frames = processor.thinker_config.get_num_video_tokens(4, 48, 48)
    clip = processor.thinker_config.get_num_audio_tokens(int(output["input_features_mask"].sum()))
    expected = [IMAGE_ID] + [VIDEO_ID] * frames + [AUDIO_ID] * clip + tokenizer("Hi")["input_ids"]
    assert output["input_ids"][0].tolist() == expected
    assert set(output) <= set(processor.model_input_names)
    assert set(processor.model_input_names) == set(output)


def test_placeholders_are_expanded_where_they_stand(processor, tokenizer):
    output = processor(text="See <|image|>, hear <|audio|>!", images=IMAGE, audio=(tone(0.1), 16000))
    clip = processor.thinker_config.get_num_audio_tokens(11)
    text = f"See <|image|>, hear {'<|audio|>' * clip}!"
    assert output["input_ids"][0].tolist() == tokenizer(text)["input_ids"]


def test_placeholder_counts_agree_with_what_codecs_give(codec_processor):
    config, rate = codec_processor.thinker_config, 24000
    clips = [(tone(seconds, rate), rate) for seconds in (0.3, 0.7, 0.01)]
    images = [np.zeros((20, 30, 3), np.uint8), np.zeros((64, 16, 3), np.uint8)]
    output = codec_processor(
        text=["<|audio|><|image|>a<|audio|>", "<|image|><|video|>", "b <|audio|>"],
        audio=clips,
        images=images,
        videos=[np.zeros((3, 16, 24, 3), np.uint8)],
    )
    frames = [config.audio_config.get_num_frames(int(mask.sum())) for mask in output["padding_mask"]]
    assert count(output["input_ids"], AUDIO_ID) == [frames[0] + frames[1], 0, frames[2]]
    assert count(output["input_ids"], IMAGE_ID) == [*output["image_grid_thw"].prod(dim=-1).tolist(), 0]
    assert count(output["input_ids"], VIDEO_ID) == [0, int(output["video_grid_thw"].prod()), 0]
    assert output["input_values"].shape == (3, 1, round(0.7 * rate))


@pytest.mark.parametrize("fixture", ["processor", "codec_processor"])
def test_each_clip_is_brought_to_its_form_once(fixture, request, monkeypatch):
    calls = []
    for module in (audio, feature_extraction, clip_inputs):
        monkeypatch.setattr(module, "as_waveform", lambda *args: calls.append(args) or audio_as_waveform(*args))
    processor = request.getfixturevalue(fixture)
    processor(text="a", audio=[SPEECH, (tone(0.1, 8000), 8000)])
    assert len(calls) == 2
    question = [{"role": "user", "content": [{"type": "audio", "path": str(SPEECH)}]}]
    processor.apply_chat_template(question, tokenize=True, return_dict=True)
    assert len(calls) == 3


def test_rows_of_a_batch_are_the_rows_alone(processor):
    texts = ["One <|image|> and <|image|>", "none", "two"]
    images = [[IMAGE, np.zeros((9, 9, 3))], [], [IMAGE]]
    clips = [[], [(tone(0.4), 16000)], [(tone(0.1), 8000)]]
    batch = processor(text=texts, images=images, audio=clips)
    for row in range(3):
        alone = processor(text=texts[row], images=images[row] or None, audio=clips[row] or None)
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert ids.tolist() == alone["input_ids"][0].tolist()
    assert len(batch["pixel_values"]) == 3
    assert len(batch["input_features"]) == 2


def test_one_input_for_each_text(processor):
    output = processor(text=["a", "b"], images=[IMAGE, IMAGE], audio=[SPEECH, (tone(0.1, 44100), 44100)])
    assert count(output["input_ids"], IMAGE_ID) == [1, 1]
    assert len(set(count(output["input_ids"], AUDIO_ID))) == 2
    assert processor(images=IMAGE)["input_ids"].tolist() == [[IMAGE_ID, 1]]
    assert processor(images=[[IMAGE], [IMAGE, IMAGE]])["input_ids"].tolist() == [[0, 6, 1], [6, 6, 1]]


def test_padding_can_be_chosen(processor):
    texts = ["a", "b c d e f"]
    output = processor(text=texts, padding_side="right", pad_to_multiple_of=8)
    assert output["input_ids"].shape == (2, 8)
    assert output["attention_mask"][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert processor(text=texts, padding="max_length", max_length=11)["input_ids"].shape == (2, 11)
    rows = processor(text=texts, padding=False, return_tensors=None)["input_ids"]
    assert [len(row) for row in rows] == [2, 6]


def test_truncated_rows_have_max_length(processor):
    cut = processor(text=["a b c d e f", "a"], truncation=True, max_length=4)
    assert cut["attention_mask"].sum(dim=1).tolist() == [4, 2]
    assert cut["input_ids"][0].tolist() == processor(text="a b c d e f")["input_ids"][0, :4].tolist()
    seen = processor(text="a b c d e f", images=IMAGE, truncation=True, max_length=4)["input_ids"][0].tolist()
    assert len(seen) == 4
    assert seen[:2] == [IMAGE_ID, 1]


def test_a_long_clip_is_cut_to_its_share_and_said_so(processor):
    record, handler = [], logging.Handler()
    handler.emit = lambda entry: record.append(entry.getMessage())
    named = transformers_logging.get_logger("josie.processing_josie.clip_inputs")
    named.addHandler(handler)
    try:
        output = processor(text="What?", audio=(tone(4), 16000))
    finally:
        named.removeHandler(handler)
    assert count(output["input_ids"], AUDIO_ID) == [CONTEXT // 4]
    assert record == [
        "`audio` clip 0 is too long for its share of the context: kept 64 of 101 tokens (2.53 of 4.00 s)."
    ]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "must be given, got none"),
        ({"text": 3}, "`text` must be a string or a list"),
        ({"text": []}, "`text` must be a string or a list"),
        ({"text": "<|image|><|image|>", "images": IMAGE}, r"`images` must be as many as .*\(2\), got 1 in row 0"),
        ({"text": "<|image|>"}, r"\(1\), got 0"),
        ({"text": "<|audio|>", "images": IMAGE, "audio": SPEECH}, r"\(0\), got 1"),
        ({"text": ["a", "b"], "images": IMAGE}, "`images` must be 2, one for each text, or a list for each, got 1"),
        ({"text": ["a", "b<|image|>"], "images": [IMAGE] * 2}, r"as many as their placeholders \(1\), got 2"),
        ({"text": ["a", "b"], "images": [[IMAGE]]}, "`images` must be a list of 2, one for each text, got 1"),
        ({"text": "a", "audio": np.zeros(900)}, "`sampling_rate` must be given"),
        ({"text": "a", "audio": np.zeros(900), "sampling_rate": 0}, "`sampling_rate` must be a positive integer"),
        ({"text": "word " * 300}, f"at most {CONTEXT} tokens long, the context, got"),
        (
            {"text": "a b c d <|image|>", "images": IMAGE, "truncation": True, "max_length": 2},
            r"`max_length` must leave all 1 <\|image\|>",
        ),
        (
            {"text": "a", "images": [IMAGE, IMAGE], "truncation": True, "max_length": 2},
            "`max_length` must be at least 3, for what goes in front of row 0, got 2",
        ),
        ({"text": "a", "images": 3}, "`images` must be files, arrays"),
        ({"images": np.zeros(800), "sampling_rate": 16000}, "`audio` must be given by its name, as `audio=...`"),
        ({"images": {"text": "a"}}, "and a `text` in their place a string or a list of strings, got a dict"),
        ({"text": "a", "padding": "max_length"}, "`max_length` must be given"),
        ({"text": "a", "max_length": 4}, "`max_length` must come with `truncation=True` or .* got 4 with"),
        ({"text": "a", "max_length": 4, "truncation": "do_not_truncate"}, "got 4 with `truncation='do_not_truncate'`"),
        ({"text": "a", "truncation": "only_second"}, "`truncation` must be True, .* got 'only_second'"),
    ],
    ids=short,
)
def test_bad_calls_are_refused(processor, kwargs, match):
    with pytest.raises(ValueError, match=match):
        processor(**kwargs)


def test_a_model_that_is_without_audio_or_without_vision_takes_no_such_input(tokenizer, tmp_path):
    without_vision = JosieProcessor.from_config(thinker_config(audio_config=AUDIO_ENCODER), tokenizer)
    with pytest.raises(ValueError, match="`images` must be None, as this model takes no image"):
        without_vision(text="a", images=IMAGE)
    without_audio = JosieProcessor.from_config(thinker_config(), tokenizer)
    with pytest.raises(ValueError, match="`audio` must be None"):
        without_audio(text="a", audio=SPEECH)
    for each, name in ((without_vision, "without_vision"), (without_audio, "without_audio")):
        each.save_pretrained(tmp_path / name)
        loaded = AutoProcessor.from_pretrained(tmp_path / name)
        assert loaded.get_attributes() == each.get_attributes()
        assert loaded.to_dict() == each.to_dict()
        assert repr(loaded)


def test_parts_that_must_be_there(tokenizer):
    with pytest.raises(ValueError, match="`tokenizer` must be given"):
        JosieProcessor(thinker_config=thinker_config())
    with pytest.raises(ValueError, match="`thinker_config` must be given"):
        JosieProcessor(tokenizer=tokenizer)
    config = thinker_config(audio_config=AUDIO_ENCODER)
    config.audio_token_id = 10**6
    with pytest.raises(ValueError, match=r"`audio_token_id` must be in the vocabulary, \[0, 8192\), got 1000000"):
        JosieProcessor.from_config(config, tokenizer)


def test_ids_that_the_model_does_not_have_are_refused(tokenizer):
    config = thinker_config()
    config.text_config.vocab_size = 80
    with pytest.raises(ValueError, match=r"below the model's `vocab_size` \(80\), got 80"):
        JosieProcessor.from_config(config, tokenizer)(text="h")


@pytest.mark.parametrize("fixture", ["processor", "codec_processor"])
def test_saved_processor_loads_equal_whole_and_in_parts(fixture, request, tmp_path):
    processor = request.getfixturevalue(fixture)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, JosieProcessor)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.output_sampling_rate == processor.output_sampling_rate
    inputs = {"text": "Hi", "images": IMAGE, "videos": VIDEO, "audio": (tone(0.2), 16000)}
    for name, expected in processor(**inputs).items():
        torch.testing.assert_close(loaded(**inputs)[name], expected, rtol=0, atol=0)
    for auto, name in (
        (AutoFeatureExtractor, "feature_extractor"),
        (AutoImageProcessor, "image_processor"),
        (AutoVideoProcessor, "video_processor"),
        (AutoTokenizer, "tokenizer"),
    ):
        part = getattr(processor, name)
        assert type(auto.from_pretrained(tmp_path)).__name__ == type(part).__name__
        part.save_pretrained(tmp_path / name)
        again = auto.from_pretrained(tmp_path / name)
        if name != "tokenizer":
            assert again.to_dict() == part.to_dict()


def test_whisper_as_the_audio_encoder(tokenizer, tmp_path):
    whisper = {"model_type": "whisper", "num_mel_bins": 20, "max_source_positions": 50}
    processor = JosieProcessor.from_config(thinker_config(audio_config=whisper), tokenizer)
    processor.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    output = processor(text="Hi", audio=[(tone(0.5), 16000)])
    assert output["input_features"].shape == (1, 20, 100)
    assert output["input_features_mask"].shape == (1, 100)
    assert count(output["input_ids"], AUDIO_ID) == [25]  # of half a second, not of the whole that it reads
    for seconds in (0.31, 0.5, 2.0):  # of the last the half is cut
        chat = [dict(role="user", content=[dict(type="audio", audio=tone(seconds), sampling_rate=16000)])]
        ids = processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
        assert processor.get_num_tokens(chat) == ids.shape[1]
    assert output["attention_mask"].shape == output["input_ids"].shape


def chat(image: dict, video: dict, audio: dict) -> list[dict]:
    parts = [{"type": "image", **image}, {"type": "video", **video}, {"type": "audio", **audio}]
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]},
    ]


def test_chat_with_every_kind_of_part(processor, tokenizer):
    files = chat({"path": str(IMAGE)}, {"url": str(VIDEO)}, {"path": str(SPEECH)})
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    output = processor.apply_chat_template(files, **options)
    text = processor.apply_chat_template(files, add_generation_prompt=True)
    expected = processor(text=text, images=IMAGE, videos=VIDEO, audio=SPEECH)
    assert sorted(output) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=0, atol=0)
    assert count(output["input_ids"], tokenizer.bos_token_id) == [1]
    values, rate = soundfile.read(SPEECH, dtype="float32")
    encoded = {"base64": base64.b64encode(IMAGE.read_bytes()).decode()}
    arrays = chat(encoded, {"video": str(VIDEO)}, {"audio": values, "sampling_rate": rate})
    torch.testing.assert_close(processor.apply_chat_template(arrays, **options)["input_ids"], output["input_ids"])
    batch = processor.apply_chat_template([files, arrays[:1]], **options)
    assert count(batch["input_ids"], IMAGE_ID) == [1, 0]


def test_chat_masks_what_the_assistant_says_past_expanded_placeholders(processor, tokenizer):
    answered = [*chat({"path": str(IMAGE)}, {"path": str(VIDEO)}, {"path": str(SPEECH)})]
    answered += [{"role": "assistant", "content": "A red ball."}]
    short = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    output = processor.apply_chat_template(
        [answered, short], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [ids[mask.bool()] for ids, mask in zip(output["input_ids"], output["assistant_masks"], strict=True)]
    assert tokenizer.batch_decode(said) == ["A red ball.<|end|>", "Ho<|end|>"]
    continued = processor.apply_chat_template(answered, tokenize=True, return_dict=True, continue_final_message=True)
    assert tokenizer.decode(continued["input_ids"][0]).endswith("<|assistant|>A red ball.")


def test_chat_refuses_clips_without_a_rate_and_parts_without_an_input(processor):
    options = {"tokenize": True, "return_dict": True}
    with pytest.raises(ValueError, match="`sampling_rate` must be given"):
        processor.apply_chat_template(chat({"path": IMAGE}, {"path": VIDEO}, {"audio": tone(0.1)}), **options)
    with pytest.raises(ValueError, match="A content part of type 'image' must have 'image'"):
        processor.apply_chat_template(chat({}, {"path": VIDEO}, {"audio": SPEECH}), **options)
    with pytest.raises(ValueError, match="`load_audio_from_video` must be False"):
        processor.apply_chat_template([{"role": "user", "content": "a"}], load_audio_from_video=True, **options)


def test_words_that_look_like_placeholders_can_be_kept_as_words(processor):
    message = [{"role": "user", "content": [{"type": "text", "text": "What does <|image|> mean?"}]}]
    output = processor.apply_chat_template(message, tokenize=True, return_dict=True, sanitize_control_tokens=True)
    assert count(output["input_ids"], IMAGE_ID) == [0]


def test_fetched_files_keep_their_rate(processor):
    clips = processor.feature_extractor.fetch_audio([str(SPEECH), [(tone(0.1, 8000), 8000)]])
    assert clips[0]["sampling_rate"] == 16000
    assert clips[1][0][1] == 8000
    direct = processor(text="a", audio=SPEECH)["input_features"]
    torch.testing.assert_close(processor(text="a", audio=clips[:1])["input_features"], direct, rtol=0, atol=0)


def test_outputs_become_text_or_waveforms(processor, tokenizer, tmp_path):
    ids = tokenizer(["A red ball", "Yes"], padding=True, return_tensors="pt")["input_ids"]
    assert processor.post_process_multimodal_output(ids) == ["A red ball", "Yes"]
    assert processor.post_process_multimodal_output(ids[0], skip_special_tokens=False) == ["<|begin|>A red ball"]
    output = SimpleNamespace(sequences=ids, audio_values=torch.rand(2, 1, 900), audio_lengths=torch.tensor([900, 0]))
    assert processor.post_process_multimodal_output(output, generation_mode="text") == ["A red ball", "Yes"]
    clips = processor.post_process_multimodal_output(output, generation_mode="audio")
    assert [clip.shape for clip in clips] == [(900,), (0,)]
    np.testing.assert_array_equal(clips[0], output.audio_values[0, 0])
    processor.save_audio(clips[0], tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").samplerate == 8000
    processor.save_audio([clips[0]] * 2, [tmp_path / "b.wav", tmp_path / "c.wav"], sampling_rate=16000)
    assert soundfile.info(tmp_path / "c.wav").samplerate == 16000


def test_bad_outputs_are_refused(processor, codec_processor, tokenizer, tmp_path):
    ids = tokenizer(["Yes"], return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="`generation_mode` must be 'text' or 'audio', got 'image'"):
        processor.post_process_multimodal_output(ids, generation_mode="image")
    with pytest.raises(ValueError, match="`generated_outputs` must have `audio_values`"):
        processor.post_process_multimodal_output(ids, generation_mode="audio")
    with pytest.raises(ValueError, match=r"`path` must be as many as `audio` \(2\), got 1"):
        processor.save_audio([tone(0.1)] * 2, tmp_path / "a.wav")
    with pytest.raises(ValueError, match="`sampling_rate` must be given"):
        codec_processor.save_audio(tone(0.1), tmp_path / "a.wav")


@pytest.mark.slow
def test_everything_works_where_torchvision_is_missing(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import josie.processing_josie\n"
        "from transformers import AutoProcessor\n"
        f"processor = AutoProcessor.from_pretrained({str(tmp_path)!r})\n"
        f"output = processor(text='Hi', images={str(IMAGE)!r}, videos={str(VIDEO)!r})\n"
        "print(type(processor).__name__, output['pixel_values'].shape[1], output['pixel_values_videos'].shape[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.split() == ["JosieProcessor", "3", "4"], ran.stderr


def test_collator_joins_examples_of_all_kinds(processor):
    clip = processor(text="Hear", audio=(tone(0.3), 16000))
    images = processor(text="See this here", images=[IMAGE, IMAGE])
    clip |= {"labels": clip["input_ids"].clone(), "speech_codes": torch.ones(3, 4, dtype=torch.long)}
    images = {name: value[0] if name == "input_ids" else value for name, value in images.items()}
    longer = dict(processor(text="Hear", audio=(tone(0.5), 16000))) | {
        "speech_codes": torch.zeros(1, 3, 6, dtype=torch.long)
    }
    batch = JosieDataCollator(processor)([dict(clip), images, longer])
    length = max(clip["input_ids"].shape[1], len(images["input_ids"]), longer["input_ids"].shape[1])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, length)
    assert (batch["labels"][0] == -100).sum() == length - clip["input_ids"].shape[1]
    assert (batch["labels"][1:] == -100).all()
    assert batch["attention_mask"].sum(dim=-1).tolist() == [
        clip["input_ids"].shape[1],
        len(images["input_ids"]),
        longer["input_ids"].shape[1],
    ]
    assert batch["input_features"].shape == (2, 128, 51)
    assert batch["input_features_mask"].sum(dim=-1).tolist() == [31, 51]
    torch.testing.assert_close(batch["input_features"][0, :, :31], clip["input_features"][0])
    assert batch["pixel_values"].shape == (2, 3, 48, 48)
    assert batch["speech_codes"].shape == (3, 3, 6)
    assert (batch["speech_codes"] == -100).sum(dim=(1, 2)).tolist() == [6, 18, 0]
    right = JosieDataCollator(processor, padding_side="right")([dict(clip), images])
    assert right["attention_mask"][1].tolist() == sorted(right["attention_mask"][1].tolist(), reverse=True)


def test_collator_joins_what_the_talker_reads(processor):
    features = [
        {"input_ids": [1, 2], "speech_mask": [0, 1], "speaker_ids": 1},
        {"input_ids": [1, 2, 3], "speech_mask": [0, 1, 1], "speaker_ids": [0]},
    ]
    batch = JosieDataCollator(processor)(features)
    assert batch["speech_mask"].tolist() == [[0, 0, 1], [0, 1, 1]]
    assert batch["speaker_ids"].tolist() == [1, 0]


def test_collator_refuses_examples_that_do_not_fit(processor):
    collator = JosieDataCollator(processor)
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="`features` must be examples with `input_ids`"):
        collator([])
    with pytest.raises(ValueError, match=r"`labels` must be as long as its `input_ids` \(2\), got 1"):
        collator([{"input_ids": ids, "labels": ids[:1]}])
    codes = [torch.zeros(2, 5), torch.zeros(3, 5)]
    with pytest.raises(ValueError, match=r"`speech_codes` must have one number of quantizers, got \[2, 3\]"):
        collator([{"input_ids": ids, "speech_codes": code} for code in codes])
