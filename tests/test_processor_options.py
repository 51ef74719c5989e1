"""Laws of options: each is obeyed or refused, those of the tokenizer are heard, and counts agree with what is made."""

import numpy as np
import pytest
from samples import AUDIO_ENCODER, IMAGE, TOWER, VIDEO, short, thinker_config, tone
from transformers import AutoProcessor, AutoTokenizer, pipeline

import josie
from josie.configuration_josie import JosieThinkerConfig
from josie.processing_josie import JosieFeatureExtractor, JosieImageProcessor, JosieProcessor, JosieVideoProcessor
from josie.tokenization import load_default_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_default_tokenizer(301)


def configured(**kwargs) -> JosieThinkerConfig:
    config = thinker_config(**kwargs)
    config.text_config.vocab_size = 301
    return config


@pytest.fixture(scope="module")
def processor(tokenizer):
    return JosieProcessor.from_config(configured(audio_config=AUDIO_ENCODER, vision_config=TOWER), tokenizer)


@pytest.fixture(scope="module")
def codec_processor(tokenizer):
    vision = {"model_type": "jovio", "patch_size": 8, "temporal_patch_size": 2}
    return JosieProcessor.from_config(configured(audio_config={"model_type": "jodio"}, vision_config=vision), tokenizer)


@pytest.mark.parametrize("tokenize", [False, True])
def test_what_nobody_takes_of_a_chat_template_is_refused(processor, tokenize):
    conversation, template = [{"role": "user", "content": "Hi"}], "{{ messages[0].content }}{{ name }}"
    for given in ({"add_generation_promt": True}, {"processor_kwargs": {"paddding": True}}, {"name": "Ada"}):
        name = next(iter(given.get("processor_kwargs", given)))
        with pytest.raises(ValueError, match=f"`{name}` must be an option of the processor"):
            processor.apply_chat_template(conversation, tokenize=tokenize, **given)
    rendered = processor.apply_chat_template(conversation, template, name="Ada", tokenize=tokenize)
    assert rendered == "HiAda" or processor.decode(rendered[0]).endswith("HiAda")
    assert processor.apply_chat_template(conversation, padding=True, tokenize=tokenize) is not None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"paddding": True}, "`paddding` must be an option of the processor"),
        ({"text_kwargs": {"paddding": True}}, "`text_kwargs` must have options of the processor"),
        ({"images": IMAGE, "images_kwargs": {"colour": 3}}, "`images_kwargs` must have options .*, got 'colour'"),
        ({"videos": VIDEO, "videos_kwargs": {"colour": 3}}, "`videos_kwargs` must have options .*, got 'colour'"),
        ({"images": IMAGE, "patch_size": "16"}, "`patch_size` must be an integer of at least 1, got '16'"),
        ({"images": IMAGE, "images_kwargs": {"do_resize": "no"}}, "`do_resize` must be True or False, got 'no'"),
        ({"videos": VIDEO, "num_frames": 2.5}, "`num_frames` must be an integer of at least 1, got 2.5"),
        ({"videos": VIDEO, "videos_kwargs": {"fps": "1"}}, "`fps` must be a finite number greater than 0, got '1'"),
        ({"videos": VIDEO, "videos_kwargs": {"fps": 1, "num_frames": 2}}, "`num_frames` and `fps` must not both"),
        ({"images": IMAGE, "images_kwargs": 3}, "`images_kwargs` must be a dict of options, got 3"),
        ({"return_overflowing_tokens": True}, "`return_overflowing_tokens` must be False, got True"),
        ({"text_pair": ["b"]}, r"`text_pair` must be None, got \['b'\]"),
        ({"stride": 3}, "`stride` must be 0, got 3"),
        ({"return_attention_mask": False}, "`return_attention_mask` must be True, got False"),
        ({"return_length": True}, "`return_length` must be False"),
        ({"audio_kwargs": {"max_length": 100}}, "`max_length` must be None, got 100"),
        ({"audio_kwargs": {"truncation": True}}, "`truncation` must be False, got True"),
        ({"load_audio_backend": "torchcodec"}, "`load_audio_backend` must be 'auto', got 'torchcodec'"),
        ({"images": IMAGE, "do_center_crop": True}, "`do_center_crop` must be False, got True"),
        ({"images": IMAGE, "crop_size": 8}, "`crop_size` must be one of"),
        ({"images": IMAGE, "images_kwargs": {"do_pad": False}}, "`do_pad` must be True, got False"),
        ({"videos": VIDEO, "return_metadata": True}, "`return_metadata` must be False, got True"),
    ],
    ids=short,
)
def test_what_is_not_done_is_refused(processor, options, match):
    with pytest.raises(ValueError, match=match):
        processor(text="a", **options)


@pytest.mark.parametrize("part", [JosieImageProcessor, JosieVideoProcessor])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"do_center_crop": True}, "`do_center_crop` must be False, got True"),
        ({"crop_size": 8}, "`crop_size` must be one of"),
        ({"do_pad": False}, "`do_pad` must be True, got False"),
        ({"pad_size": {"height": 8, "width": 8}}, "`pad_size` must be one of"),
        ({"data_format": "channels_last"}, "`data_format` must be 'channels_first'"),
        ({"do_convert_rgb": False}, "`do_convert_rgb` must be True"),
        ({"input_data_format": "channels_last"}, "`input_data_format` must be one of"),
        ({"colour": 3}, "`colour` must be one of"),
    ],
    ids=short,
)
def test_vision_processors_refuse_what_they_do_not_do(part, options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        part(**options)
    with pytest.raises(ValueError, match=match):
        part()(IMAGE if part is JosieImageProcessor else VIDEO, **options)
    part().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=match):
        part.from_pretrained(tmp_path, **options)


def test_what_is_done_anyway_may_be_said(tmp_path):
    said = {"do_convert_rgb": True, "do_center_crop": False, "data_format": "channels_first", "crop_size": None}
    for part in (JosieImageProcessor, JosieVideoProcessor):
        assert part(**said).to_dict() == part().to_dict()
        part(size={"height": 32, "width": 32}).save_pretrained(tmp_path / part.__name__)
        loaded = part.from_pretrained(tmp_path / part.__name__, patch_size=8)
        assert (loaded.size.height, loaded.patch_size) == (32, 8)


def test_options_of_the_tokenizer_are_heard(processor, tmp_path):
    processor.save_pretrained(tmp_path)

    def loaded(**kwargs) -> JosieProcessor:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, **kwargs)
        return JosieProcessor(tokenizer=tokenizer, thinker_config=configured())

    assert loaded(padding_side="right")(text=["a", "a b c"])["attention_mask"][0].tolist() == [1, 1, 0, 0]
    assert loaded(padding_side="left")(text=["a", "a b c"])["attention_mask"][0].tolist() == [0, 0, 1, 1]
    assert loaded(padding="max_length", max_length=117)(text="a")["input_ids"].shape == (1, 117)
    side = loaded(padding_side="right")(text=["a", "a b c"], padding_side="left")
    assert side["attention_mask"][0].tolist() == [0, 0, 1, 1]


def test_truncation_by_the_tokenizers_own_length_counts_what_stands_in_front():
    limit, tokenizer = 40, load_default_tokenizer(301)  # which has a token of the beginning, too
    processor = JosieProcessor.from_config(configured(vision_config=TOWER), tokenizer)
    inputs = dict(text=["word " * 50, "word"], images=[[IMAGE], []], truncation=True)
    front = processor(text="", images=IMAGE)["input_ids"].shape[1]
    assert 1 < front < limit
    expected = processor(**inputs, max_length=limit)["input_ids"]
    tokenizer.model_max_length = limit
    found = processor(**inputs)["input_ids"]
    assert found.shape == (2, limit)
    assert found.tolist() == expected.tolist()
    assert processor(**inputs, max_length=limit + 3)["input_ids"].shape[1] == limit + 3
    assert processor(text="word " * 50)["input_ids"].shape[1] > limit  # as nothing says to cut
    tokenizer.model_max_length = front - 1
    with pytest.raises(ValueError, match=f"`tokenizer.model_max_length` must be at least {front}, .* got {front - 1}"):
        processor(**inputs)


def test_added_tokens_are_taken_and_saved(tokenizer, tmp_path):
    processor = JosieProcessor.from_config(configured(), load_default_tokenizer(301))
    smaller = configured()
    smaller.text_config.vocab_size = 300
    refusing = JosieProcessor.from_config(smaller, load_default_tokenizer(301))
    with pytest.raises(ValueError, match=r"below the model's `vocab_size` \(300\), got 300"):
        refusing(text=tokenizer.decode([300]))
    processor.tokenizer.add_tokens(["<|tool|>"], special_tokens=True)
    ids = processor(text="Use <|tool|> now.")["input_ids"][0].tolist()
    assert ids.count(301) == 1
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded(text="Use <|tool|> now.")["input_ids"][0].tolist() == ids
    assert loaded.thinker_config.text_config.vocab_size == 302


@pytest.mark.parametrize("fixture", ["processor", "codec_processor"])
def test_counts_by_size_agree_with_what_is_made(fixture, request):
    processor = request.getfixturevalue(fixture)
    sizes, lengths = [[40, 31], [64, 80]], [1600, 2801]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    videos = [np.zeros((count, 24, 40, 3), np.uint8) for count in (3, 4)]
    rate = processor.feature_extractor.sampling_rate
    clips = [(tone(1, rate)[:length], rate) for length in lengths]
    inputs = {"images": images, "videos": videos, "audio": clips}
    made = {name: processor(**{name: [[item] for item in items]}) for name, items in inputs.items()}
    found = processor._get_num_multimodal_tokens(sizes, [[3, 24, 40], [4, 24, 40]], lengths)
    for name, counts, token_id in (
        ("images", found.num_image_tokens, processor.image_token_id),
        ("videos", found.num_video_tokens, processor.video_token_id),
        ("audio", found.num_audio_tokens, processor.audio_token_id),
    ):
        assert counts == (made[name]["input_ids"] == token_id).sum(dim=1).tolist()
    assert found.num_image_patches == made["images"]["image_grid_thw"].prod(dim=1).tolist()


def test_counts_of_what_the_model_does_not_take_are_refused(tokenizer):
    without_audio = JosieProcessor.from_config(configured(), tokenizer)
    with pytest.raises(ValueError, match="as this model takes no image"):
        without_audio._get_num_multimodal_tokens(image_sizes=[[4, 4]])
    assert without_audio._get_num_multimodal_tokens().num_image_tokens is None


def test_the_extractor_says_nothing_of_the_padding_of_text():
    assert JosieFeatureExtractor().padding_side is None
    assert JosieFeatureExtractor(padding_side="right").padding_side is None


def test_pipelines_take_batches_of_words_and_images():
    model = josie.JosieForConditionalGeneration.from_pretrained(josie.nano_path())
    processor = JosieProcessor.from_pretrained(josie.nano_path())
    scene = str(IMAGE.with_name("scene.png"))

    def ask(text: str) -> list[dict]:
        return [{"role": "user", "content": [{"type": "image", "path": scene}, {"type": "text", "text": text}]}]

    chats = [ask("What colour is the circle?"), ask("What shape is green?"), ask("What is it?")]
    answer = pipeline("any-to-any", model=model, processor=processor)
    options = {"return_full_text": False, "generate_kwargs": {"max_new_tokens": 12, "max_length": None}}
    alone = [answer(chat, **options)[0]["generated_text"] for chat in chats]
    batched = [rows[0]["generated_text"] for rows in answer(chats, batch_size=3, **options)]
    assert batched == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hop_length": 160}, "`hop_length` must be one of .*'mel_hop_length'.*, got 'hop_length' of 160"),
        ({"padding_side": "left"}, "`padding_side` must be one of"),
        ({"return_attention_mask": False}, "`return_attention_mask` must be one of"),
        ({"feature_size": 80}, "`feature_size` must be None or 128, got 80"),
    ],
    ids=short,
)
def test_the_extractor_refuses_what_it_does_not_do(options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        JosieFeatureExtractor(**options)
    JosieFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=match):
        JosieFeatureExtractor.from_pretrained(tmp_path, **options)
    changed = JosieFeatureExtractor.from_pretrained(tmp_path, num_mel_bins=80)
    assert (changed.num_mel_bins, changed.feature_size) == (80, 80)


def test_options_of_loading_reach_their_part_or_are_refused(processor, codec_processor, tmp_path):
    processor.save_pretrained(tmp_path / "tower")
    codec_processor.save_pretrained(tmp_path / "codec")

    def load(name: str = "tower", **options) -> JosieProcessor:
        return AutoProcessor.from_pretrained(tmp_path / name, **options)

    assert load(size={"height": 32, "width": 32}).image_processor.size.height == 32
    assert load(fps=1.0).video_processor.fps == 1.0
    assert load(num_mel_bins=3).feature_extractor.feature_size == 3
    assert load(padding_side="right").tokenizer.padding_side == "right"
    assert load(pad_token="<|end|>").tokenizer.pad_token == "<|end|>"
    assert load(output_sampling_rate=8000, use_fast=True).output_sampling_rate == 8000
    few = load("codec", max_pixels=64 * 100)
    for part in (few.image_processor, few.video_processor):
        assert part.size.max_pixels == 64 * 100
    with pytest.raises(ValueError, match="`min_pixels` must be None, as all images of this model have one size, got 3"):
        load(min_pixels=3)
    with pytest.raises(ValueError, match="`colour` must be an option of loading or of a part"):
        load(colour=3)
    with pytest.raises(ValueError, match="`feature_size` must be an option of loading or of a part"):
        load(feature_size=3)
