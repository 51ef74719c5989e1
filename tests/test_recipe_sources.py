"""Rows of recipes: what a source cannot obey is a sentence before there is a model, and limits are kept."""

import re

import pytest
from nano_world.sight import SightArguments
from nano_world.tasks import NanoArguments
from recipe_runs import write_conversations
from recipes.conversations import ConversationDataArguments, load_conversations
from recipes.speech_data import SpeechDataArguments
from recipes.text_data import TextDataArguments


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(write_conversations(tmp_path_factory.mktemp("conversations")))


def load(*sources, **options):
    return load_conversations(ConversationDataArguments(sources=list(sources), **options))


@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "`path` of a source must be the name of a data set, got None."),
        ({"path": 5}, "`path` of a source must be the name of a data set, got 5."),
        ({"root": 5}, "`root` of a source must be the name of a folder, got 5."),
        ({"split": None}, "`split` of a source must be the name of one, got None."),
        ({"split": ["train"]}, "`split` of a source must be the name of one, got ['train']."),
        ({"split": "dev"}, "`data.sources` must name data that `load_dataset` can read, got "),
        ({"data_file": "x"}, "got an unexpected keyword argument 'data_file'."),
        ({"streaming": True}, "`streaming` must be among `data`, not among what a source has, got True there."),
        ({"data_files": None}, "`data_files` of a source must be files where its `path` is 'json', got None."),
        ({"data_files": "/no.jsonl"}, "`data_files` of a source must be files that exist, got '/no.jsonl': "),
        ({"data_files": [5]}, "`data.sources` must name data that `load_dataset` can read, got [5]: "),
    ],
    ids=str,
)
def test_what_conversations_of_datasets_cannot_obey_is_a_sentence(path, changes, message, is_streaming):
    source = {"name": "datasets", "path": "json", "data_files": path} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        load(source, streaming=is_streaming)


@pytest.mark.parametrize("is_streaming", [False, True], ids=["in-memory", "streaming"])
def test_no_more_rows_are_held_out_than_are_asked_for(path, tmp_path, is_streaming):
    one, none = {"name": "jsonl", "path": path}, {"name": "jsonl", "path": path, "split": "train"}
    for most in (0, 1, 3, 4):
        options = {"max_validation_rows": most, "validation_share": 0.5, "streaming": is_streaming}
        assert len(load(one, **options)["validation"]) == most
        assert len(load(one, one, **options)["validation"]) == most
        assert len(load(none, one, **options)["validation"]) == most
    assert len(load(one, max_validation_rows=100, validation_share=0.5)["validation"]) == 11


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("conversations", {"max_validation_rows": -1}, "`data.max_validation_rows` must be at least 0, got -1."),
        ("conversations", {"shuffle_buffer": -5}, "`data.shuffle_buffer` must be at least 0, got -5."),
        ("texts", {"max_validation_blocks": -1}, "`data.max_validation_blocks` must be at least 0, got -1."),
        ("texts", {"shuffle_buffer": -5}, "`data.shuffle_buffer` must be at least 0, got -5."),
        (
            "speech",
            {"min_seconds": -1},
            "`data.min_seconds` must be at least 0 and `data.max_seconds` not less, got -1",
        ),
        ("speech", {"max_seconds": 0, "min_seconds": 1}, "and `data.max_seconds` not less, got 1 and 0."),
        ("sight", {"stamps": -3, "unknown": -2}, "`data.stamps` and `data.unknown` must be at least 0 and at most 1 t"),
        ("sight", {"stamps": 0.6, "unknown": 0.6}, "at most 1 together, got (0.6, 0.6)."),
        ("sight", {"stamps": float("nan")}, "at most 1 together, got (nan, 0.1)."),
        ("sight", {"num_rows": -4}, "`data.num_rows` must be at least 1, got -4."),
        ("sight", {"num_validation_rows": -1}, "`data.num_validation_rows` must be at least 0, got -1."),
        ("sight", {"source": "emojis"}, "`data.source` must be one of ['emoji', 'tuxpaint'], got 'emojis'."),
        ("nano", {"num_rows": 0}, "`data.nano.num_rows` must be at least 1, got 0."),
        ("nano", {"num_voices": 0}, "`data.nano.num_voices` must be at least 1, got 0."),
        ("nano", {"batch_size": -1}, "`data.nano.batch_size` must be at least 0, got -1."),
        ("nano", {"stamps": "emojis"}, "`data.nano.stamps` must be one of ['emoji', 'tuxpaint'], got 'emojis'."),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(section, change, message):
    make = {
        "conversations": lambda **options: ConversationDataArguments([{"name": "jsonl", "path": "x"}], **options),
        "texts": lambda **options: TextDataArguments([{"name": "folder", "path": "x"}], **options),
        "speech": lambda **options: SpeechDataArguments([{"name": "folder", "path": "x"}], **options),
        "sight": SightArguments,
        "nano": NanoArguments,
    }[section]
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**change)
