"""Labels of conversations: the assistant's words and nothing else, whatever stands between them and however padded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TEXT, THINKER, coded_josie_config, josie_config

from josie.processing_josie import JosieProcessor, load_audio
from josie.tokenization import load_default_tokenizer
from josie.tokenization.special_tokens import ASSISTANT_TOKEN, AUDIO_TOKEN, EOS_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN

DATA = Path(__file__).parent / "data"
SPEECH, IMAGE, VIDEO = DATA / "speech.wav", DATA / "picture.png", DATA / "video.mp4"
OPTIONS = {"tokenize": True, "return_dict": True, "output_labels": True}


@pytest.fixture(scope="module")
def tokenizer():
    return load_default_tokenizer(301)


@pytest.fixture(scope="module")
def processor(tokenizer):
    thinker = dict(THINKER, text_config=dict(TEXT, vocab_size=301, max_position_embeddings=256))
    return JosieProcessor.from_config(josie_config(thinker_config=thinker), tokenizer)


def user(*parts) -> dict:
    return {"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}


def assistant(*parts) -> dict:
    return {"role": "assistant", "content": list(parts)}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def tone(num_samples: int) -> np.ndarray:
    return np.sin(np.arange(num_samples) / 3).astype(np.float32) / 2


IMAGE_PART = {"type": "image", "path": str(IMAGE)}
CLIP_PART = {"type": "audio", "audio": tone(2801), "sampling_rate": 16000}
VIDEO_PART = {"type": "video", "path": str(VIDEO)}
CODES = np.arange(12).reshape(3, 4) % 11
LONG = [
    {"role": "system", "content": "Be brief."},
    user(IMAGE_PART, CLIP_PART),
    {"role": "assistant", "content": "A réd ball ☃."},
    user(VIDEO_PART),
    assistant(text("This: "), IMAGE_PART, text(" and no more.")),
]
SHORT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SILENT = [{"role": "user", "content": "Hm"}]


def naive_labels(ids: list[int], tokenizer) -> list[int]:
    """The text between the token that opens a turn of the assistant and the one that ends it, the latter too."""
    start, end = tokenizer.convert_tokens_to_ids([ASSISTANT_TOKEN, EOS_TOKEN])
    ignored = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, VIDEO_TOKEN, AUDIO_TOKEN])
    labels, inside = [], False
    for token in ids:
        labels.append(token if inside and token not in ignored else -100)
        inside = (inside or token == start) and token != end
    return labels


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_are_what_the_assistant_says(processor, tokenizer, side):
    batch = processor.apply_chat_template(
        [LONG, SHORT, SILENT], **OPTIONS, processor_kwargs={"padding_side": side, "pad_to_multiple_of": 7}
    )
    assert batch.keys().isdisjoint({"assistant_masks", "offset_mapping"})
    assert batch["labels"].tolist() == [naive_labels(ids, tokenizer) for ids in batch["input_ids"].tolist()]
    said = [tokenizer.decode(ids[ids != -100]) for ids in batch["labels"]]
    assert said == ["A réd ball ☃.<|end|>This:  and no more.<|end|>", "Ho<|end|>", ""]
    alone = processor.apply_chat_template(LONG, **OPTIONS)
    real = batch["attention_mask"][0].bool()
    assert torch.equal(batch["labels"][0][real], alone["labels"][0])
    assert torch.equal(batch["input_ids"][0][real], alone["input_ids"][0])


def test_labels_come_in_the_form_of_the_ids(processor):
    expected = processor.apply_chat_template([LONG, SHORT], **OPTIONS)
    arrays = processor.apply_chat_template([LONG, SHORT], **OPTIONS, return_tensors="np")
    assert isinstance(arrays["labels"], np.ndarray)
    np.testing.assert_array_equal(arrays["labels"], expected["labels"])
    ragged = processor.apply_chat_template(
        [LONG, SHORT], **OPTIONS, return_tensors=None, processor_kwargs={"padding": False}
    )
    real = expected["attention_mask"].bool()
    assert ragged["labels"] == [row[mask].tolist() for row, mask in zip(expected["labels"], real, strict=True)]


def test_labels_may_be_asked_for_as_in_transformers_and_masks_beside_them(processor):
    options = {"tokenize": True, "return_dict": True}
    expected = processor.apply_chat_template(SHORT, **OPTIONS)["labels"]
    asked = processor.apply_chat_template(SHORT, **options, processor_kwargs={"output_labels": True})
    assert torch.equal(asked["labels"], expected)
    both = processor.apply_chat_template(SHORT, **OPTIONS, return_assistant_tokens_mask=True)
    assert torch.equal(both["assistant_masks"].bool(), expected != -100)
    assert "labels" not in processor.apply_chat_template(SHORT, **options)


def test_a_cut_conversation_keeps_the_labels_that_are_left(processor, tokenizer):
    cut = processor.apply_chat_template(SHORT, **OPTIONS, processor_kwargs={"truncation": True, "max_length": 8})
    assert cut["labels"].tolist() == [naive_labels(cut["input_ids"][0].tolist(), tokenizer)]
    assert (cut["labels"] != -100).sum() == 2


def test_plain_text_is_learned_but_for_placeholders_and_padding(processor):
    batch = processor(text=["Two words", "One <|image|>"], images=[IMAGE], output_labels=True)
    ignored = (batch["attention_mask"] == 0) | (batch["input_ids"] == processor.image_token_id)
    assert ignored.any()
    assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(ignored, -100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenize": False}, "`tokenize` must be True with `output_labels`, got False"),
        ({"return_dict": False}, "`return_dict` must be True with `output_labels`, got False"),
        ({"continue_final_message": True}, "`continue_final_message` must be False with `output_labels`, got True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_labels_need_what_they_are_made_of(processor, changes, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(SHORT, **(OPTIONS | changes))


def test_a_template_without_marks_gives_no_labels(processor):
    plain = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="`output_labels` must be False for a chat template that does not mark"):
        processor.apply_chat_template(SHORT, chat_template=plain, **OPTIONS)


# Speech


def test_the_assistants_audio_is_learned_and_not_heard(processor, tokenizer):
    clip = {"type": "audio", "path": str(SPEECH)}
    spoken = [user(CLIP_PART), assistant(text("Oh"), clip, text(" no")), user(), assistant(text("Yes"))]
    written = [spoken[0], assistant(text("Oh no")), *spoken[2:]]
    assert processor.apply_chat_template(spoken) == processor.apply_chat_template(written)
    batch = processor.apply_chat_template([spoken, SHORT], **OPTIONS)
    expected = processor.apply_chat_template([written, SHORT], **OPTIONS)
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)
    assert batch.keys() - expected.keys() == {"speech_mask", "speech_values", "speech_values_mask"}
    pairs = zip(batch["input_ids"], batch["speech_mask"].bool(), strict=True)
    words = [tokenizer.decode(ids[mask]) for ids, mask in pairs]
    assert words == ["Oh no", ""]
    waveform = torch.from_numpy(load_audio(SPEECH, processor.output_sampling_rate))
    assert torch.equal(batch["speech_values"][0, 0], waveform)
    assert batch["speech_values_mask"].sum(dim=1).tolist() == [len(waveform), 0]
    assert clip in spoken[1]["content"], "the caller's conversation must stay as it was"


def test_several_clips_are_learned_each_with_its_turn(processor, tokenizer):
    clips = [dict(type="audio", audio=tone(length), sampling_rate=1600) for length in (400, 255, 301)]
    turns = [assistant(text(words), clip) for words, clip in zip(("a b", "c", "d"), clips, strict=True)]
    rows = [[user(), turns[0], user(), assistant(text("Yes")), user(), turns[1]], SHORT, [user(), turns[2]]]
    batch = processor.apply_chat_template(rows, **OPTIONS)
    assert batch["speech_values"].shape == (3, 2, 1, 400)
    assert batch["speech_values_mask"].sum(dim=2).tolist() == [[400, 255], [0, 0], [301, 0]]
    torch.testing.assert_close(batch["speech_values"][0, 1, 0, :255], torch.from_numpy(tone(255)))
    said = [
        [tokenizer.decode(ids[mask == turn]) for turn in (1, 2)]
        for ids, mask in zip(batch["input_ids"], batch["speech_mask"], strict=True)
    ]
    assert said == [["a b", "c"], ["", ""], ["d", ""]]


def test_codes_of_the_assistants_audio_are_taken_as_they_are(processor):
    coded = [user(), assistant(text("Yes"), {"type": "audio", "path": None, "codes": CODES.tolist()})]
    batch = processor.apply_chat_template([SHORT, coded], **OPTIONS)
    assert "speech_values" not in batch
    assert batch["speech_codes"].tolist() == [np.full((3, 4), -100).tolist(), CODES.tolist()]
    assert batch["speech_mask"].any(dim=1).tolist() == [False, True]


def test_speech_that_cannot_be_learned_is_refused(processor, tokenizer):
    clip = {"type": "audio", "audio": tone(400), "sampling_rate": 1600}
    turn = assistant(text("Yes"), clip)
    with pytest.raises(ValueError, match="at most one clip in a turn of the assistant, got 2"):
        processor.apply_chat_template([user(), assistant(text("Yes"), clip, clip)], **OPTIONS)
    with pytest.raises(ValueError, match="A spoken turn must have words.*got none in row 1"):
        processor.apply_chat_template([SHORT, [user(), assistant(clip)]], **OPTIONS)
    flat = assistant(text("Yes"), {"type": "audio", "codes": [1, 2]})
    with pytest.raises(ValueError, match=r"`speech_codes` must be integers of shape .* got int64 of shape \(2,\)"):
        processor.apply_chat_template([user(), flat], **OPTIONS)
    for codes in ("abc", 3, {"a": 1}, [["a"]] * 3, [[2**70]] * 3):
        strange = assistant(text("Yes"), {"type": "audio", "codes": codes})
        with pytest.raises(ValueError, match=r"`speech_codes` must be integers of shape .* got "):
            processor.apply_chat_template([user(), strange], **OPTIONS)
    mute = JosieProcessor(tokenizer=tokenizer, thinker_config=processor.thinker_config)
    with pytest.raises(ValueError, match="must have no audio, as this model has no audio codec"):
        mute.apply_chat_template([{"role": "user", "content": "a"}, turn], **OPTIONS)


# Lengths


def coded_processor(tokenizer) -> JosieProcessor:
    """Return that of a model that hears through JODIO and sees through JOVIO."""
    thinker = coded_josie_config().thinker_config
    thinker.text_config.vocab_size, thinker.text_config.max_position_embeddings = 301, 1024
    return JosieProcessor.from_config(thinker, tokenizer)


@pytest.mark.parametrize(
    "conversation",
    [
        SHORT,
        LONG,
        [user({"type": "image", "image": Image.new("RGB", (31, 50))}), *SHORT[1:]],
        [user({"type": "image", "image": np.zeros((40, 31, 3), dtype=np.uint8)}), *SHORT[1:]],
        [user({"type": "audio", "path": str(SPEECH)}), assistant(text("Yes"), CLIP_PART)],
        [user({"type": "video", "video": np.zeros((5, 20, 31, 3), dtype=np.uint8)})],
    ],
    ids=["text", "files", "image", "array", "speech", "frames"],
)
@pytest.mark.parametrize("kind", ["encoders", "codecs"])
def test_lengths_are_known_without_decoding(processor, tokenizer, conversation, kind):
    if kind == "codecs":
        processor = coded_processor(tokenizer)
    ids = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
    assert processor.get_num_tokens(conversation) == ids.shape[1]


def test_the_length_of_an_image_on_its_side_is_that_of_the_upright_one(tokenizer, tmp_path):
    processor = coded_processor(tokenizer)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 75)).save(tmp_path / "turned.jpg", exif=exif)
    conversation = [user({"type": "image", "path": str(tmp_path / "turned.jpg")})]
    ids = processor.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
    assert processor.get_num_tokens(conversation) == ids.shape[1]


def test_a_kind_that_the_model_does_not_take_has_no_length(processor, tokenizer):
    mute = JosieProcessor(tokenizer=tokenizer, thinker_config=processor.thinker_config)
    with pytest.raises(ValueError, match="`conversation` must have no audio, as this model takes none, got one"):
        mute.get_num_tokens([user(CLIP_PART)])
