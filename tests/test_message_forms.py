"""Forms of messages: those of other libraries give the inputs of JOSIE's own, or are refused in a sentence."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import soundfile
import torch
from datasets import Dataset, Features, Image as ImageFeature, Value
from PIL import Image
from samples import AUDIO_ENCODER, IMAGE, SPEECH, TOWER, VIDEO, short, thinker_config, tone

from josie import JosieDataCollator
from josie.configuration_josie import JosieConfig
from josie.processing_josie import JosieProcessor
from josie.processing_josie.message_forms import read_conversation
from josie.processing_josie.sources import open_source
from josie.tokenization import load_default_tokenizer
from josie.training.conversations import normalize_row

OPTIONS = {"tokenize": True, "return_dict": True}
HI = {"type": "text", "text": "Hi"}


@pytest.fixture(scope="module")
def processor():
    config = thinker_config(audio_config=AUDIO_ENCODER, vision_config=TOWER)
    codec = {"model_type": "josie_mel_codec", "sampling_rate": 8000}
    return JosieProcessor.from_config(
        JosieConfig(thinker_config=config, audio_codec_config=codec), load_default_tokenizer()
    )


@dataclass
class Message:
    """A message as Gradio has it."""

    role: str
    content: Any
    metadata: dict | None = None
    options: list | None = None


def user(*parts: Any, **more: Any) -> list[dict]:
    return [{"role": "user", "content": list(parts)} | more]


def assert_equal(found: Any, expected: Any) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def inputs_of(processor, conversation, **options):
    output = processor.apply_chat_template(conversation, **OPTIONS, **options)
    if not isinstance(conversation, list) or not isinstance(conversation[0], list):
        assert processor.get_num_tokens(conversation) == output["input_ids"].shape[1]
    return output


IMAGE_URI = "data:image/png;base64," + base64.b64encode(IMAGE.read_bytes()).decode()
SPEECH_64 = base64.b64encode(SPEECH.read_bytes()).decode()
IMAGE_FORMS = [
    {"type": "image", "image": IMAGE.as_uri()},
    {"type": "image", "image": {"bytes": IMAGE.read_bytes(), "path": None}},
    {"type": "image", "image": {"bytes": None, "path": str(IMAGE)}},
    {"type": "image", "path": str(IMAGE), "text": None, "audio": None, "video": {"bytes": None, "path": None}},
    {"type": "image", "image_url": str(IMAGE)},
    {"image": str(IMAGE)},
    {"type": "image_url", "image_url": {"url": IMAGE_URI, "detail": "auto"}},
    {"type": "image_url", "image_url": IMAGE_URI},
    {"type": "input_image", "image_url": IMAGE_URI},
    {"type": "file", "file": {"path": str(IMAGE), "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}},
    {"type": "file", "file": {"path": str(IMAGE)}},
    {"type": "component", "component": "image", "value": {"path": str(IMAGE), "url": "/x.png"}, "instance": object()},
    {"type": "file", "file": {"file_data": IMAGE_URI, "filename": "a.png"}},
    {"type": "input_file", "file_data": IMAGE_URI},
]
AUDIO_FORMS = [
    {"audio": str(SPEECH)},
    {"type": "audio", "audio": {"path": str(SPEECH), "bytes": None}},
    {"type": "audio", "audio_url": SPEECH.as_uri()},
    {"type": "audio_url", "audio_url": {"url": str(SPEECH)}},
    {"type": "input_audio", "input_audio": {"data": SPEECH_64, "format": "wav"}},
    {"type": "file", "file": {"url": str(SPEECH), "mime_type": "audio/wav"}},
    {"component": "audio", "value": {"path": str(SPEECH), "mime_type": None, "meta": {}}, "props": {"label": "Said"}},
    {"type": "audio", "audio": soundfile.read(SPEECH, dtype="float32")[0], "sample_rate": 16000},
]


@pytest.mark.parametrize("part", IMAGE_FORMS, ids=short)
def test_every_form_of_an_image_is_the_image(processor, part):
    assert_equal(inputs_of(processor, user(part, HI)), inputs_of(processor, user({"type": "image", "path": IMAGE}, HI)))


@pytest.mark.parametrize("part", AUDIO_FORMS, ids=short)
def test_every_form_of_a_clip_is_the_clip(processor, part):
    assert_equal(
        inputs_of(processor, user(part, HI)), inputs_of(processor, user({"type": "audio", "path": SPEECH}, HI))
    )


@pytest.mark.parametrize(
    "content",
    [
        {"path": str(IMAGE), "alt_text": None},
        (str(IMAGE),),
        (str(IMAGE), "an image"),
        {"text": "", "files": [str(IMAGE)]},
        {"text": "", "files": [{"path": str(IMAGE), "mime_type": "image/png"}]},
        {"text": None, "files": {"path": str(IMAGE), "url": "http://there/a.png", "size": 3, "meta": {"_type": "F"}}},
        {"files": str(IMAGE)},
        {"files": IMAGE},
        {"type": "image", "path": str(IMAGE)},
        np.array([{"type": "image", "path": str(IMAGE)}], dtype=object),
    ],
    ids=short,
)
def test_every_form_of_a_content_is_the_content(processor, content):
    expected = inputs_of(processor, user({"type": "image", "path": IMAGE}))
    assert_equal(inputs_of(processor, [{"role": "user", "content": content}]), expected)
    assert_equal(inputs_of(processor, [Message("user", content, {"title": None}, [])]), expected)


def test_texts_of_other_interfaces_are_texts(processor):
    expected = inputs_of(processor, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}])
    answers = [
        {"role": "assistant", "content": [{"type": "output_text", "text": "No", "annotations": []}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        {"role": "assistant", "content": None, "refusal": "No", "tool_calls": None, "audio": None},
        {"from": "gpt", "value": "No"},
        {"role": "assistant", "content": "No", "id": "msg_1", "options": [], "metadata": {"title": None}},
    ]
    for answer in answers:
        assert_equal(
            inputs_of(processor, [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, answer]),
            expected,
        )
    assert_equal(inputs_of(processor, [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "No"}]), expected)


def test_options_of_a_part_are_heard(processor):
    few = inputs_of(processor, user({"type": "video", "video": str(VIDEO), "num_frames": 2}))
    assert few["pixel_values_videos"].shape[1] == 2
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    for name in ("sample_fps", "raw_fps"):
        known = inputs_of(processor, user({"type": "video", "video": frames, name: 8, "fps": 4}))
        assert known["pixel_values_videos"].shape[1] == 4
    with pytest.raises(ValueError, match="`fps` must come with `video_metadata`"):
        inputs_of(processor, user({"type": "video", "video": list(frames), "fps": 4.0}))
    with pytest.raises(ValueError, match="`min_pixels` must be None, as all images of this model have one size"):
        inputs_of(processor, user({"type": "image", "image": IMAGE, "min_pixels": 100}))


def test_a_list_of_files_in_a_message_is_one_video(processor, tmp_path):
    for index in range(6):
        Image.new("RGB", (32, 32), (40 * index, 0, 0)).save(tmp_path / f"{index}.png")
    files = [str(tmp_path / f"{index}.png") for index in range(6)]
    for frames in (
        files,
        [f"file://{file}" for file in files],
        [np.asarray(Image.new("RGB", (32, 32), (40 * index, 0, 0))) for index in range(6)],
        np.array(files, object),
    ):
        output = inputs_of(processor, user({"type": "video", "video": frames}, HI))
        assert output["pixel_values_videos"].shape[:2] == (1, 6)
        assert (output["input_ids"] == processor.video_token_id).sum() == 6
    for modality, file in (("image", IMAGE), ("audio", SPEECH)):
        with pytest.raises(ValueError, match=f"type '{modality}' must have one {modality}, got a list of 2"):
            inputs_of(processor, user({"type": modality, modality: [str(file), str(file)]}))


CONVERSATION = [
    {"role": "user", "content": [{"type": "image", "path": str(IMAGE)}, {"type": "text", "text": "What is it?"}]},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "A ball."}, {"type": "audio", "codes": [[1, 2], [3, 4], [5, 6]]}],
    },
]


def test_tables_give_what_lists_give(processor, tmp_path):
    """Parquet gives lists as arrays, and each part the fields of all."""
    frame = pandas.DataFrame({"messages": [CONVERSATION, CONVERSATION[:1]]})
    frame.to_parquet(tmp_path / "rows.parquet")
    read = pandas.read_parquet(tmp_path / "rows.parquet")
    assert isinstance(read.messages[0], np.ndarray)
    table = pyarrow.Table.from_pandas(frame)
    expected = processor.apply_chat_template([CONVERSATION, CONVERSATION[:1]], output_labels=True, **OPTIONS)
    assert "speech_codes" in expected
    saved = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    for batch in (
        list(read.messages),
        read.messages,
        table["messages"].to_pylist(),
        table["messages"],
        saved["messages"],
    ):
        assert_equal(processor.apply_chat_template(batch, output_labels=True, **OPTIONS), expected)
    assert_equal(inputs_of(processor, read.messages[1]), inputs_of(processor, CONVERSATION[:1]))
    collate = JosieDataCollator(processor)
    rows = [{"messages": row} for row in (CONVERSATION, CONVERSATION[:1])]
    assert_equal(collate(read.to_dict("records")), collate(rows))
    assert_equal(collate(list(saved)), collate(rows))


def test_columns_of_codes_and_inputs_come_back_from_tables(processor, tmp_path):
    rows = [
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
            "speech_codes": [[1, 2], [3, 4]],
        }
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "codes.parquet")
    collate = JosieDataCollator(processor)
    assert_equal(collate(pandas.read_parquet(tmp_path / "codes.parquet").to_dict("records")), collate(rows))
    made = processor(text="a", audio=SPEECH)
    made = {name: value.tolist() for name, value in made.items()}
    pandas.DataFrame([made]).to_parquet(tmp_path / "made.parquet")
    assert_equal(collate(pandas.read_parquet(tmp_path / "made.parquet").to_dict("records")), collate([made]))


def test_nested_rows_of_values_are_arrays(processor, tmp_path):
    clip = np.stack([tone(0.1), tone(0.1, 8000)[:1].repeat(1600)])
    pandas.DataFrame({"audio": [[list(channel) for channel in clip.astype(np.float64)]]}).to_parquet(
        tmp_path / "clip.parquet"
    )
    read = pandas.read_parquet(tmp_path / "clip.parquet").audio[0]
    assert read.dtype == object
    part = {"type": "audio", "audio": read, "sampling_rate": 16000}
    assert_equal(inputs_of(processor, user(part)), inputs_of(processor, user(dict(part, audio=clip))))
    image = np.asarray(Image.open(IMAGE).convert("RGB"))
    column = pyarrow.array([image.tolist()], pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.uint8()))))
    nested = pyarrow.table({"image": column}).to_pandas().image[0]
    found = inputs_of(processor, user({"type": "image", "image": nested}))
    assert_equal(found, inputs_of(processor, user({"type": "image", "image": image})))


def test_contents_that_a_table_keeps_as_json_are_refused(processor, tmp_path):
    """A column of texts and lists is JSON in the file, which pandas does not read, and `datasets` does."""
    conversation = user({"type": "audio", "path": str(SPEECH)}) + [{"role": "assistant", "content": "Yes."}]
    rows = Dataset.from_list([{"messages": conversation}], on_mixed_types="use_json")
    rows.to_parquet(tmp_path / "rows.parquet")
    read = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    assert normalize_row(read[0], None, ())["messages"] == conversation
    row = pandas.read_parquet(tmp_path / "rows.parquet").to_dict("records")[0]
    for messages in (row["messages"], row["messages"][:1]):
        with pytest.raises(ValueError, match=r"`content` of a row must be a text .*, got '\[\{\"type\""):
            JosieDataCollator(processor)([row | {"messages": messages}])
    written = [
        {"role": "user", "content": "Write a part."},
        {"role": "assistant", "content": row["messages"][0]["content"]},
    ]
    assert normalize_row({"messages": written}, None, ())["messages"] == written
    assert read_conversation(written[1:]) == written[1:]  # what is said in a chat is what is said


def test_features_of_datasets_are_inputs(processor):
    features = Features(image=ImageFeature(), text=Value("string"))
    rows = Dataset.from_dict({"image": [str(IMAGE)], "text": ["Hi"]}, features=features)
    expected = inputs_of(processor, user({"type": "image", "path": IMAGE}, HI))
    for decode in (True, False):
        image = rows.cast_column("image", ImageFeature(decode=decode))[0]["image"]
        assert_equal(inputs_of(processor, user({"type": "image", "image": image}, HI)), expected)


def test_rows_of_other_data_sets_are_taken_or_refused(processor):
    collate = JosieDataCollator(processor)
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    own = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert_equal(collate([{"conversations": turns}]), collate([{"messages": own}]))
    for column in ("image", "images", "audio", "videos"):
        with pytest.raises(
            ValueError, match=f"A row must have its files inside `messages`, .* got a column '{column}'"
        ):
            collate([{"messages": own, column: [str(IMAGE)]}])
    collate([{"messages": own, "images": [], "audio": None}])
    with pytest.raises(ValueError, match="A row must have `messages`, a list of dicts, got 3"):
        collate([{"messages": 3}])


def test_columns_beside_the_messages_are_rendered_or_refused(processor):
    collate = JosieDataCollator(processor)
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    own = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    first = {"role": "system", "content": "Be brief."}
    expected = collate([{"messages": [first, *own]}])
    row = {"system": "Be brief.", "tools": [], "documents": None}
    for name, messages in (("conversations", turns), ("messages", own)):
        assert_equal(collate([{name: messages} | row]), expected)
        assert processor.get_num_tokens({name: messages} | row) == expected["input_ids"].shape[1]
        kept = normalize_row({name: messages} | row, None, ("system",))
        assert kept == {"messages": [first, *own], "system": None}
        assert_equal(collate([kept]), expected)
    assert_equal(
        collate(pandas.DataFrame([{"messages": own} | row, {"messages": own}]).to_dict("records")[1:]),
        collate([{"messages": own, "system": ""}]),
    )
    for beside, match in (
        ({"tools": [TOOL]}, "`tools` of a row must be None or empty"),
        ({"documents": [{"text": "b"}]}, "`documents` of a row must be None or empty"),
        ({"system": 3}, "`system` of a row must be a text, .* got 3"),
        ({"system": "Be.", "messages": [first, *own]}, "None or empty where its messages begin with a system message"),
    ):
        with pytest.raises(ValueError, match=match):
            collate([{"messages": own} | beside])


def test_what_has_josies_form_stays_as_it_is():
    assert read_conversation(CONVERSATION) == CONVERSATION
    given = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}]
    once = read_conversation(given)
    assert once == [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}] == read_conversation(once)
    assert given[0]["content"][0]["type"] == "image_url"


@pytest.mark.parametrize(
    ("conversation", "match"),
    [
        ([], r"`conversation` must be a list of messages, .* got \[\]"),
        ("Hi", "`conversation` must be a list of messages, .* got Hi"),
        ({"messages": []}, r"`conversation` must be a list of messages, .* got a dict with \['messages'\]"),
        (["Hi"], "A message must be a dict with `role` and `content`, got 'Hi'"),
        ([{"content": "Hi"}], "`role` must be 'system', 'user' or 'assistant', got None"),
        ([{"role": "tool", "content": "Hi"}], "`role` must be 'system', 'user' or 'assistant', got tool"),
        ([{"role": "user"}], "`content` must be a string or a list of parts, got None of 'user'"),
        ([{"role": "user", "content": 3}], "`content` must be a string or a list of parts, got a int"),
        (
            [{"role": "user", "content": Image.new("RGB", (8, 8))}],
            "`content` must be a string or a list of parts, got a Image",
        ),
        ([{"role": "user", "content": ("a", "b", "c")}], "`content` as a tuple of texts must be the path"),
        ([{"role": "user", "content": {"component": "image"}}], r"got a dict with \['component'\]"),
        (
            [{"role": "user", "content": {"path": IMAGE, "text": "a"}}],
            "of type 'image' must have one input.* got 'text'",
        ),
        ([{"role": "user", "content": {"files": [], "text": "a", "system": "b"}}], r"'text', got \['system'\], which"),
        (user({"type": "file", "file": {"path": "a.mp4"}, "pitch": 3}), "of type 'video' must have .* got 'pitch'"),
        (user({"type": "file", "file": {"path": "a.mp4", "file_data": "x"}}), "one input, got .'path', 'file_data'"),
        (user(3), "A content part must be a text or a dict with `type`, .* got a int"),
        (user(Image.new("RGB", (8, 8))), "A content part must be a text or a dict with `type`"),
        (
            user({"type": "thing"}),
            "The `type` of a content part must be 'text', 'image', 'video' or 'audio', got thing",
        ),
        (user({"component": "gallery", "value": [IMAGE]}), "A component of a message must be .* got 'gallery'"),
        (user({"text": "a", "image": IMAGE}), "The `type` of a content part must be .* got None"),
        (user({"type": "text"}), "of type 'text' must have a text as 'text', got None"),
        (user({"type": "text", "text": 3}), "of type 'text' must have a text as 'text', got 3"),
        (user({"type": "text", "text": "a", "image": IMAGE}), "of type 'text' must have its text, got 'image'"),
        (
            user({"type": "image", "image": IMAGE, "text": "a"}),
            "of type 'image' must have one input.* got 'text', which",
        ),
        (
            user({"type": "image", "image": IMAGE, "path": "a"}),
            r"'image' must have one input, got \['image', 'path'\]",
        ),
        (
            user({"type": "image", "image": IMAGE, "resized_height": 28}),
            "got 'resized_height', which would be left out",
        ),
        (
            user({"type": "image_url", "image_url": {"url": IMAGE_URI, "detail": "low"}}),
            "got 'detail', which would be",
        ),
        (user({"type": "video", "video": VIDEO, "video_start": 1}), "got 'video_start', which would be left out"),
        (user({"type": "video", "video": VIDEO, "sample_fps": 1, "raw_fps": 2}), "A video must have one of"),
        (user({"type": "audio", "audio": SPEECH, "sample_rate": 1, "sampling_rate": 2}), "must say everything once"),
        (user({"type": "input_audio", "input_audio": {"format": "wav"}}), "must have {'data': base64, 'format': ...}"),
        (
            user({"type": "input_audio", "input_audio": "a.wav"}),
            "of type 'input_audio' must have a dict as 'input_audio'",
        ),
        (user({"type": "input_image", "file_id": "x"}), "of type 'input_image' must have 'image_url'"),
        (user({"type": "file", "file": {"file_id": "x"}}), "must have 'path', 'url' or 'file_data', got"),
        (
            user({"type": "file", "file": {"path": "a.pdf"}}),
            "must be an image, video or audio by its type or suffix, got",
        ),
        (
            [{"role": "user", "content": "Hi", "images": [IMAGE]}],
            "A message must have its files as parts of `content`",
        ),
        (
            [{"role": "user", "content": "Hi", "weight": 0}],
            "A message must have `role` and `content` alone.* got 'weight'",
        ),
        ([{"role": "assistant", "content": "Hi", "reasoning_content": "Hm"}], "alone.* got 'reasoning_content'"),
        ([{"from": "function_call", "value": "f()"}], "`from` of a message must be one of"),
        (
            [{"from": "human", "value": "<image>\nWhat is it?"}],
            "`value` of a message must be a text without marks of files",
        ),
    ],
    ids=short,
)
def test_other_forms_are_refused(processor, conversation, match):
    with pytest.raises(ValueError, match=match):
        processor.apply_chat_template(conversation, **OPTIONS)


CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
ASKED = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("conversation", "options", "match"),
    [
        (ASKED, {"tools": [TOOL]}, "`tools` and `documents` must be None"),
        (ASKED, {"documents": [{"title": "a", "text": "b"}]}, "`tools` and `documents` must be None"),
        ([*ASKED, {"role": "assistant", "tool_calls": [CALL]}], {}, "`tool_calls` must be None"),
        ([*ASKED, {"role": "assistant", "content": "Ho", "tool_calls": [CALL]}], {}, "`tool_calls` must be None"),
        ([*ASKED, {"role": "tool", "content": "3", "tool_call_id": "1"}], {}, "alone.* got 'tool_call_id'"),
    ],
    ids=short,
)
def test_tools_are_refused_where_the_template_has_none(processor, conversation, options, match):
    with pytest.raises(ValueError, match=match):
        processor.apply_chat_template(conversation, **options)
    if "alone" not in match:
        with pytest.raises(Exception, match=match):  # by the template itself, for those who go past the processor
            processor.tokenizer.apply_chat_template(conversation, **options)
    plain = "{% for message in messages %}{{ message['role'] + message['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="`tools` must be None|`documents` must be None|alone"):
        processor.apply_chat_template(conversation, chat_template=plain, **options)


def test_a_template_that_renders_tools_gets_them(processor):
    template = (
        "{% for tool in tools or [] %}{{ tool['function']['name'] }};{% endfor %}"
        "{% for message in messages %}{{ message['role'] }}:{% for call in message['tool_calls'] or [] %}"
        "{{ call['function']['name'] }}{% endfor %}{{ message['content'] }};{% endfor %}"
    )
    turns = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3"}]
    assert processor.apply_chat_template(turns, template, [TOOL]) == "look;user:Hi;assistant:look;tool:3;"


def test_a_uri_of_several_images_is_refused(processor):
    several = IMAGE_URI + "," + IMAGE_URI.partition(",")[2]
    with pytest.raises(ValueError, match="`images` must be base64 in a string, or a `data:` URI, got a int"):
        processor.apply_chat_template(user({"type": "image", "base64": 3}), tokenize=True)
    with pytest.raises(ValueError, match="`images` must be valid base64"):
        open_source(several, "images")
