"""Rows that `josie encode` reads: which ones a name stands for, and what it does not."""

import io

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, Image, Json, List, Value, load_dataset
from PIL import Image as PilImage
from recipe_runs import write_conversations

from josie.training import dataset_rows
from josie.training.conversations import read_jsonl
from josie.training.dataset_rows import open_rows


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("conversations"), number=3)


def test_recordings_are_known_by_their_texts(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(160), 16000)
    prints = []
    for text in ("one", "two"):
        (tmp_path / "a.txt").write_text(text)
        prints.append(open_rows(str(tmp_path)).fingerprint)
    assert prints[0] != prints[1]


def test_a_folder_of_rows_is_not_taken_for_recordings(conversations, tmp_path, monkeypatch):
    folder = tmp_path / "both"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(160), 16000)
    (folder / "rows.jsonl").write_bytes(conversations.read_bytes())
    with pytest.raises(ValueError, match=r"`DATASET` must be recordings or rows, got '.*both' with both.*rows.jsonl"):
        open_rows(str(folder))
    (folder / "rows.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,text\na.wav,hello\n")
    asked = []
    rows = Dataset.from_dict({"audio": ["a.wav"], "text": ["hello"]})
    monkeypatch.setattr(dataset_rows, "load_dataset", lambda name, split: asked.append((name, split)) or rows)
    assert open_rows(str(folder))[0]["text"] == "hello"
    assert asked == [(str(folder), "train")]


def test_a_split_is_one_there_is(conversations, tmp_path):
    with pytest.raises(ValueError, match="`--split` must be left out for .*, got 'validation'"):
        open_rows(str(conversations), "validation")
    rows = Dataset.from_list([{"messages": row["messages"]} for row in read_jsonl(conversations)][:2])
    DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "saved")
    assert len(open_rows(str(tmp_path / "saved"), "test")) == 1
    with pytest.raises(ValueError, match=r"`--split` must be one of \['train', 'test'\], got 'validation'"):
        open_rows(str(tmp_path / "saved"), "validation")


def test_files_inside_a_data_set_stay_as_they_are(tmp_path, monkeypatch):
    """Nothing is decoded and written anew: a JPEG would get worse, a recording would ask for a decoder."""
    monkeypatch.chdir(tmp_path)  # where files of the same names are others
    file = io.BytesIO()
    PilImage.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG", quality=95)
    image, clip = {"bytes": file.getvalue(), "path": "a.jpg"}, {"bytes": b"any bytes", "path": "a.wav"}
    for name in ("a.jpg", "a.wav"):
        (tmp_path / name).write_bytes(b"another")
    stored = {"bytes": Value("binary"), "path": Value("string")}
    plain = Features(
        audio=stored, question_audio=stored, image=stored, clips=List({"clip": stored}), note=Value("string")
    )
    clips = [{"clip": clip}, {"clip": None}]
    row = {"audio": clip, "question_audio": clip, "image": image, "clips": clips, "note": "x"}
    dataset = Dataset.from_list([row, row | {"image": None}], features=plain)
    types = Features(audio=Audio(), question_audio=Audio(8000), image=Image(), clips=List({"clip": Audio()}))
    rows = dataset_rows.DatasetRows(dataset.cast(Features(**types, note=Value("string"))), None)
    assert rows[0]["image"] == image
    assert rows[1]["image"] is None
    assert rows[0]["clips"][0] == {"clip": clip}
    columns = {name: [rows[index][name] for index in (0, 1)] for name in rows.features}
    Dataset.from_dict(columns, features=rows.features).to_parquet(tmp_path / "rows.parquet")
    written = load_dataset("parquet", data_files="rows.parquet", split="train", cache_dir="cache")
    assert written.features == Features({name: types.get(name, Value("string")) for name in written.column_names})
    found = written.with_format("arrow")[:].to_pylist()
    assert found == [{name: row[name] for name in columns}, {name: row[name] for name in columns} | {"image": None}]


def test_json_stays_json():
    rows = [{"messages": [{"role": "user", "content": "Hi."}], "note": {"a": [1, "b"]}}]
    read = dataset_rows.DatasetRows(Dataset.from_list(rows, features=Features(messages=Json(), note=Json())), None)[0]
    assert read == rows[0]


def test_files_in_messages_are_their_bytes():
    image = {"bytes": b"any bytes", "path": "a.jpg"}
    stored = {"bytes": Value("binary"), "path": Value("string")}
    message = {"role": Value("string"), "content": List({"type": Value("string"), "image": stored})}
    row = {"messages": [{"role": "user", "content": [{"type": "image", "image": image}]}]}
    dataset = Dataset.from_list([row], features=Features(messages=List(message)))
    message["content"] = List({"type": Value("string"), "image": Image()})
    rows = dataset_rows.DatasetRows(dataset.cast(Features(messages=List(message))), None)
    assert rows[0]["messages"][0]["content"][0]["image"] == "data:;base64,YW55IGJ5dGVz"
