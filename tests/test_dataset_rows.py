"""Rows that `josie encode` reads: which ones a name stands for, and what it does not."""

import numpy as np
import pytest
import soundfile
from datasets import Dataset, DatasetDict
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
