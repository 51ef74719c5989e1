"""Speech of folders and data sets for recipes: what is read of it, and what is refused."""

import json
import re

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from media_files import encode_audio
from recipes.speech_data import SpeechDataArguments, load_speech, prepare_speech, read_manifest


@pytest.fixture
def folder(tmp_path):
    """A folder with two recordings, one of them in a container that libsndfile does not know."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    samples = np.random.default_rng(0).integers(-3000, 3000, 8000, dtype=np.int16)
    soundfile.write(folder / "a.wav", samples, 16000)
    (folder / "b.m4a").write_bytes(encode_audio(samples, 16000, "mp4", "aac", {}))
    return folder


def prepare(folder, **options):
    source = {"name": "folder", "path": str(folder)} | options
    arguments = SpeechDataArguments([source], folder=str(folder.parent / "data"), validation_share=0, test_share=0)
    return read_manifest(prepare_speech(arguments)["train"])


def test_texts_are_what_they_were(folder):
    (folder / "a.txt").write_text("one\u2028two\x85three", encoding="utf-8")
    (folder / "b.txt").write_text("four\n", encoding="utf-8-sig")
    clips = prepare(folder, language="en")
    assert [clip["text"] for clip in clips] == ["one\u2028two\x85three", "four"]
    assert clips[0]["seconds"] == 0.5
    assert clips[1]["seconds"] == pytest.approx(0.5, abs=0.1)


def test_a_folder_may_be_as_ljspeech_is(folder):
    (folder / "wavs").mkdir()
    for name in ("a.wav", "b.m4a"):
        (folder / name).rename(folder / "wavs" / name)
    lines = ["a|In 1455.|In fourteen fifty-five.", "b|the Bible|", "not-here|Nothing|Nothing"]
    (folder / "metadata.csv").write_text("\r\n".join(lines) + "\n", encoding="utf-8")
    clips = prepare(folder)
    assert [clip["text"] for clip in clips] == ["In fourteen fifty-five.", "the Bible"]
    assert {clip["speaker"] for clip in clips} == {"recordings"}
    (folder / "metadata.csv").write_text("file_name,transcription\na.wav,one\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"must have `name\|text` .* got line 1 of .*: 'file_name,transcription'"):
        prepare(folder)


@pytest.mark.parametrize("name", ["84-121.trans.txt", "text"], ids=["librispeech", "kaldi"])
def test_a_folder_may_have_tables_of_texts(folder, name):
    (folder / "84" / "121").mkdir(parents=True)
    (folder / "a.wav").rename(folder / "84" / "121" / "a.wav")
    (folder / "84" / name).write_text("a AND I SAID I'M WELL\r\nb\nc NOTHING\n", encoding="utf-8")
    assert [clip["text"] for clip in prepare(folder)] == ["AND I SAID I'M WELL", None]
    clips = prepare(folder, sentence_case=True)
    assert [clip["text"] for clip in clips] == ["And I said I'm well", None]
    assert [clip["speaker"] for clip in clips] == ["121", "recordings"]


def test_sentences_stay_as_they_are(tmp_path, rows):
    rows = [row | {"text": row["text"].upper() if index % 2 else "At 9 PM"} for index, row in enumerate(rows)]
    options = {"text_column": "text", "sentence_case": True}
    splits = load(tmp_path, rows, options=options, validation_share=0, test_share=0)
    assert {row["text"].rstrip("0123456789") for row in splits["train"]} == {"Sentence ", "At 9 PM"}
    with pytest.raises(ValueError, match="`sentence_case` of a source must be true or false, got 'yes'"):
        SpeechDataArguments([{"name": "asterisk", "sentence_case": "yes"}])


def test_what_cannot_be_read_is_named(folder, caplog):
    (folder / "c.flac").write_bytes(b"no audio")
    assert len(prepare(folder)) == 2
    assert "c.flac" in caplog.text
    (folder / "a.txt").write_bytes("zwölf".encode("latin-1"))
    with pytest.raises(ValueError, match=r"`data.sources` must have texts in UTF-8, got '.*a.txt'"):
        prepare(folder)


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ({"name": "folder", "path": ".", "langauge": "en"}, "langauge"),
        ({"name": "flite", "max_clips": 1}, "max_clips"),
        ({"name": "asterisk", "voices": ["slt"]}, "voices"),
    ],
    ids=str,
)
def test_options_of_other_sources_are_refused(source, option):
    with pytest.raises(ValueError, match=rf"`data.sources` must hold \['name', 'split', 'licence'.*got '{option}'"):
        SpeechDataArguments([source])


@pytest.fixture
def rows(tmp_path):
    """Rows with clips of 0.1, 0.2, ... 1 seconds, one that is none, and their texts."""
    rows = []
    for index in range(1, 11):
        soundfile.write(tmp_path / f"{index}.wav", np.full(1600 * index, 0.1), 16000)
        rows.append({"audio": str(tmp_path / f"{index}.wav"), "text": f"sentence {index}", "speaker": "a"})
    return [*rows, {"audio": str(tmp_path / "none.wav"), "text": "nothing", "speaker": "a"}]


def load(tmp_path, rows, is_saved=False, options=None, **arguments):
    """Return the splits of rows in a file of JSON or a folder of `save_to_disk`."""
    if is_saved:
        Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
        source = {"name": "datasets", "path": str(tmp_path / "saved")}
    else:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        source = {"name": "datasets", "path": "json", "data_files": str(path), "cache_dir": str(tmp_path / "cache")}
    return load_speech(SpeechDataArguments([source | (options or {})], folder=str(tmp_path / "data"), **arguments))


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_data_set_obeys_limits_and_shares(tmp_path, rows, is_saved, caplog):
    rows = [{"source": row["audio"], **row} for row in rows]
    for column in ("audio", "source"):
        options = {"text_column": "text", "audio_column": column}
        limits = {"min_seconds": 0.25, "max_seconds": 0.8, "validation_share": 0.3, "test_share": 0.3}
        splits = load(tmp_path, rows, is_saved, options, **limits)
        assert sorted(row["seconds"] for split in splits.values() for row in split) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        assert all(row["audio"]["path"].endswith(f"/{row['text'][9:]}.wav") for row in splits["train"])
        assert len(splits["train"]) < 6
        assert "none.wav" in caplog.text


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_data_set_with_a_split_is_in_that_one(tmp_path, rows, is_saved):
    options = {"split": "train"} if not is_saved else {"split": "test"}
    splits = load(tmp_path, rows, is_saved, options, validation_share=0.4, test_share=0.4)
    assert {name: len(split) for name, split in splits.items() if len(split)} == {options["split"]: 10}
    if not is_saved:  # a part of one is split by the shares
        splits = load(tmp_path, rows, options={"split": "train[:9]"}, validation_share=0.4, test_share=0.4)
        assert sum(map(len, splits.values())) == 9
        assert len(splits["train"]) < 9


@pytest.mark.parametrize(
    ("is_saved", "options", "message"),
    [
        (True, {"revison": "x"}, "`data.sources` must hold ['name', 'split', 'licence', 'sentence_case', 'path', "),
        (True, {"data_files": "x"}, ", got 'data_files'."),
        (True, {"split": "dev"}, "must be of ['train', 'validation', 'test'], got 'dev'."),
        (False, {"revison": "x"}, "unexpected keyword argument 'revison'."),
        (False, {"split": "dev"}, 'Unknown split "dev".'),
        (False, {"split": None}, "`split` of a source must be the name of one, got None."),
        (False, {"data_files": None}, "`data_files` of a source must be files where its `path` is 'json', got None."),
        (False, {"data_files": "/no.jsonl"}, "`data_files` of a source must be files that exist, got '/no.jsonl'"),
        (False, {"audio_column": "number"}, "`audio_column` of a source must be of audio, got 'number'"),
        (False, {"text_column": "number"}, "`text_column` of a source must be of texts, got 3 in 'number'"),
        (False, {"audio_column": "text"}, "`data.sources` must hold audio that can be read, got none from 'json'."),
        (False, {"path": None}, "`data.sources` must give a data set's name as `path`, got none."),
    ],
    ids=str,
)
def test_what_a_data_set_cannot_obey_is_refused(tmp_path, rows, is_saved, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(tmp_path, [row | {"number": 3} for row in rows], is_saved, options)
