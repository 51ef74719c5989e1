"""Texts of messages: members of enums are their values, no half of a character passes, and no input loses its place."""

import copy
import enum
import pickle
import warnings

import numpy as np
import pytest
from samples import AUDIO_ENCODER, IMAGE, SPEECH, TOWER, thinker_config

import josie
from josie.processing_josie import JosieProcessor
from josie.processing_josie.spoken_turns import split_speech
from josie.tokenization import load_default_tokenizer
from josie.training.timed_turns import read_past, read_turns

IMAGE_PART, HI = {"type": "image", "image": IMAGE}, {"type": "text", "text": "Hi"}
OWN = "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"


class Word(str, enum.Enum):  # noqa: UP042  (`StrEnum` prints its value)
    USER = "user"
    HUMAN = "human"
    TEXT = "text"
    HELLO = "Hello."


@pytest.fixture(scope="module")
def processor():
    config = thinker_config(audio_config=AUDIO_ENCODER, vision_config=TOWER)
    return JosieProcessor.from_config(config, load_default_tokenizer())


@pytest.mark.parametrize(
    "message",
    [
        {"role": Word.USER, "content": Word.HELLO},
        {"role": "user", "content": [Word.HELLO]},
        {"role": "user", "content": [{"type": Word.TEXT, "text": Word.HELLO}]},
        {"role": Word.USER, "content": {Word.TEXT: Word.HELLO, "files": []}},
        {"from": Word.HUMAN, "value": Word.HELLO},
    ],
)
def test_members_of_enums_are_their_values(processor, message):
    expected = processor.apply_chat_template([{"role": "user", "content": "Hello."}])
    assert processor.apply_chat_template([message]) == expected


def test_members_of_enums_inside_tool_calls_are_their_values(processor):
    template = "{% for message in messages %}{{ message.calls[0].name }}{% endfor %}"
    messages = [{"role": "assistant", "content": "", "calls": [{"name": Word.HELLO}]}]
    assert processor.apply_chat_template(messages, chat_template=template) == "Hello."


@pytest.mark.parametrize("text", ["\ud800", "a\ud800b", "a\ud83d\ude00b"])
def test_halves_of_surrogate_pairs_are_refused(processor, text):
    message = "must be text without halves of surrogate pairs, got "
    calls = {
        "`text`": lambda: processor(text=["a", text]),
        "`content`": lambda: processor.apply_chat_template([{"role": "user", "content": text}]),
        "`content` ": lambda: processor.apply_chat_template([{"role": "user", "content": [text]}]),
        "`text` ": lambda: processor.apply_chat_template([{"role": "user", "content": [HI | {"text": text}]}]),
        "`past`": lambda: read_past([text]),
        "`text`  ": lambda: read_turns([{"begin": 0, "text": text}]),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=name.strip() + " " + message):
            call()


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ([HI, IMAGE_PART], {"continue_final_message": True}),
        ([HI | {"text": ""}, IMAGE_PART], {"continue_final_message": True}),
        ([IMAGE_PART, HI, IMAGE_PART], {"continue_final_message": True}),
        ([IMAGE_PART, HI], {"chat_template": OWN}),
    ],
)
def test_inputs_without_a_place_are_refused(processor, content, options):
    messages = [{"role": "user", "content": content}]
    for more in ({}, {"tokenize": True, "return_dict": True}):
        for conversation in (messages, [[{"role": "user", "content": [HI]}], messages]):
            with pytest.raises(ValueError, match="`images` of messages must be as many as the .* template renders"):
                processor.apply_chat_template(conversation, **options, **more)


@pytest.mark.parametrize("continues", [False, True])
def test_a_processor_without_placeholders_puts_inputs_in_front(processor, monkeypatch, continues):
    monkeypatch.setattr(processor, "chat_template", OWN)
    messages = [{"role": "user", "content": [HI, IMAGE_PART]}]
    options = {"continue_final_message": continues}
    text = processor.apply_chat_template(messages, **options)
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    decoded = processor.tokenizer.decode(inputs["input_ids"][0])
    assert "<|image|>" not in text
    assert decoded.startswith("<|image|>")
    assert decoded.replace("<|image|>", "") == "<|begin|>" + text


def test_inputs_before_the_last_text_are_continued(processor):
    clip = {"type": "audio", "path": SPEECH}
    messages = [{"role": "user", "content": [IMAGE_PART, clip, HI]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, continue_final_message=True)
    ids = inputs["input_ids"][0].tolist()
    text = processor.tokenizer.decode(ids)
    assert text.startswith("<|begin|><|user|><|image|>")
    assert text.endswith("<|audio|>Hi")


def test_parts_without_inputs_are_rendered(processor):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "audio"}, HI]}]
    assert processor.apply_chat_template(messages) == "<|begin|><|user|><|image|><|audio|>Hi<|end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 // 0 }}", "`chat_template` must render these messages, got ZeroDivisionError: .* by zero"),
        ("{{ 1 + 'a' }}", "`chat_template` must render these messages, got TypeError"),
        ("{{ 1 ", "unexpected end of template"),
    ],
)
def test_templates_that_fail_say_so(processor, template, message):
    for more in ({}, {"tokenize": True, "return_dict": True}):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template=template, **more)


def test_errors_of_others_are_not_the_templates(processor):
    with pytest.raises(ValueError, match="`images` must be an existing file"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "path": "none.png"}]}], tokenize=True, return_dict=True
        )


def test_pieces_of_speech_are_not_copied():
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="Pieces of speech are made once, and cannot be copied or pickled"):
            call(josie.AudioIteratorStreamer())


def test_rows_of_tokens_of_every_layout_are_read(processor):
    ids = np.arange(5, 9)
    with warnings.catch_warnings(action="error"):
        for given in (ids[::-1].copy()[::-1], np.frombuffer(ids.tobytes(), ids.dtype)):
            batch = josie.JosieDataCollator(processor)([{"input_ids": given}])
            assert batch["input_ids"].tolist() == [ids.tolist()]


def test_codes_of_every_layout_are_read():
    codes = np.arange(6).reshape(2, 3)
    for given in (codes[:, ::-1].copy()[:, ::-1], np.frombuffer(codes.tobytes(), codes.dtype).reshape(2, 3)):
        turn = {"role": "assistant", "content": [HI, {"type": "audio", "codes": given}]}
        with warnings.catch_warnings(action="error"):
            (spoken,) = split_speech([turn])[1]
        assert spoken.codes.tolist() == codes.tolist()
