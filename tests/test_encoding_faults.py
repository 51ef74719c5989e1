"""Faults around encodings: rows, processes and files that fail, and folders that a recipe must not read."""

import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
import train_talker
import train_thinker
from datasets import Dataset, Features, Json, load_dataset
from recipe_runs import refuse, write_conversations
from recipes.conversations import ConversationDataArguments, find_encodings, load_conversations
from recipes.spoken_rows import SpeechEncoder, SpokenConversations, is_spoken
from transformers import AutoModelForMultimodalLM, AutoProcessor

from josie.training import encode_dataset as encoding
from josie.training.dataset_rows import DatasetRows, open_rows
from josie.training.encode_dataset import EncodeArguments, encode_dataset
from josie.training.encode_shards import PLAN_FILE, require_complete
from josie.training.speech_codes import check_speech_codes

RECORD = ("bytes", "end")  # what a shard's mark has of its file


def encode(dataset, model, out, **options):
    return encode_dataset(EncodeArguments(str(dataset), str(model), **dict(shard_rows=4) | options), out)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, tiny_folder):
    """A folder of conversations, with their encoding in `out`, and what `datasets` keeps in `cache`."""
    folder = tmp_path_factory.mktemp("encoded")
    encode(write_conversations(folder, number=11), tiny_folder, folder / "out")
    return folder


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory, tiny_folder):
    """The same model with another codec of the same sizes."""
    folder = tmp_path_factory.mktemp("other")
    model = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    next(model.audio_codec.parameters()).data.add_(1.0)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


def source(folder, **options):
    return {"name": "datasets", "path": str(folder), "cache_dir": str(folder.parent / "cache")} | options


def configure(folder, model, output, **data):
    trainer = dict(output_dir=str(output), max_steps=1, per_device_train_batch_size=2, disable_tqdm=True)
    data = {"sources": [source(folder)], "validation_share": 0.2, "folder": str(output / "codes")} | data
    return {"data": data, "model": {"path": str(model)}, "trainer": trainer}


class TestProcesses:
    def test_a_process_that_is_killed_ends_the_run_in_a_sentence(self, tiny_folder, tmp_path):
        rows, out = write_conversations(tmp_path, number=8), tmp_path / "out"
        half = out / "data" / ".train-00002-of-00004.parquet.q7xk"  # as a process leaves it that is killed

        def kill(done, total):
            for process in multiprocessing.active_children()[:1]:
                half.mkdir(exist_ok=True)
                process.kill()

        arguments = EncodeArguments(str(rows), str(tiny_folder), shard_rows=2, num_threads=1)
        message = "`--num-proc` must be a number of processes that this machine has memory for, got 2, of which one"
        with pytest.raises(ValueError, match=message):
            encode_dataset(arguments, out, 2, on_rows=kill)
        assert not half.exists()
        assert not multiprocessing.active_children()
        assert encode_dataset(arguments, out).num_complete == 4

    def test_an_error_in_a_process_is_its_own_and_a_run_that_is_over_does_no_more(
        self, encoded, tiny_folder, tmp_path, monkeypatch
    ):
        out, is_over = shutil.copytree(encoded / "out", tmp_path / "out"), SimpleNamespace(value=0)
        options: Any = dict(
            arguments=EncodeArguments("none.jsonl", str(tiny_folder)), folder=out, counts=[0], is_over=is_over
        )
        monkeypatch.setattr(encoding, "_PROCESS", options)
        with pytest.raises(ValueError, match="`DATASET` must be a JSONL file, a folder with data or a name"):
            encoding._encode_shard(0, 0)
        options["arguments"] = EncodeArguments(str(encoded / "rows.jsonl"), str(tiny_folder), shard_rows=4)
        is_over.value = 1
        encoding._encode_shard(0, 0)
        assert options["counts"] == [0]
        is_over.value = 0
        encoding._encode_shard(0, 0)
        assert options["counts"] == [4]


ANSWER = [{"type": "text", "text": "a"}, {"type": "audio", "path": "long.wav"}]
MESSAGES = [{"role": "user", "content": "x"}, {"role": "assistant", "content": ANSWER}]
DEEP = '{"messages": ' + "[" * 100_000 + "]" * 100_000 + "}"


def row(messages=MESSAGES, **columns):
    return {"messages": messages} | columns


def spoken(**part):
    return row([MESSAGES[0], {"role": "assistant", "content": [ANSWER[0], {"type": "audio"} | part]}])


BROKEN = [
    (row(speech_codes="abc"), "`speech_codes` must be integers of shape (num_quantizers, num_frames), got 'abc'"),
    (row(speech_codes=5), "`speech_codes` must be integers of shape (num_quantizers, num_frames), got 5"),
    (row(speech_codes={"a": 1}), "`speech_codes` must be integers of shape"),
    (row(speech_codes=[["a"]] * 3), "`speech_codes` must be integers of shape"),
    (row(speech_codes=[[2**70]] * 3), "`speech_codes` must be integers of shape"),
    (row(speech_codes=[[999, 2]] * 3), "or in quantizer 0 11 for the end, got values from 2 to 999"),
    (row(speech_codes=[[1], [2], [11]]), "`speech_codes` must be in [0, 10]"),
    (row(speech_codes=[[-5, 2]] * 3), "`speech_codes` must be in [0, 10], or -100"),
    (row(speech_codes=[[1, 2]] * 2), "`speech_codes` must be of 3 quantizers, got 2"),
    (spoken(codes="abc"), "`speech_codes` must be integers of shape"),
    (spoken(codes=[[999]] * 3), "`speech_codes` must be in [0, 10]"),
    (spoken(base64=3), "`audio` must be base64 in a string, or a `data:` URI, got a int."),
    (row(text="\ud800"), r"A row must have strings in Unicode, got a lone surrogate in '\ud800'"),
    (row(meta={"\udfff": 1}), "A row must have strings in Unicode"),
    (row(**{"\ud800": 1}), "A row must have strings in Unicode"),
    (row([{"role": "user", "content": "\ud800"}, MESSAGES[1]]), "A row must have strings in Unicode"),
    (row(speaker=["a"]), "`speaker` of a row must be a string, got ['a']"),
    (row(speaker=True), "`speaker` of a row must be a string, got True"),
    (row(text={"a": 1}), "`text` of a row must be a string, got {'a': 1}"),
    (DEEP, 'A row must be JSON that can be read, got b\'{"messages": [[['),
    (b'{"messages": "\xff"}', "A row must be in UTF-8, got bytes that are not: "),
    (b"{", "A row must be JSON that can be read, got b'{"),
]


class TestRows:
    def test_rows_of_any_kind_are_listed_with_the_reason(self, tiny_folder, tmp_path):
        path = write_conversations(tmp_path, number=2)
        lines = [
            each if isinstance(each, bytes) else (each if isinstance(each, str) else json.dumps(each)).encode()
            for each, _ in BROKEN
        ]
        path.write_bytes(path.read_bytes() + b"\n".join(lines) + b"\n" + json.dumps(row(id="0042")).encode())
        found = encode(path, tiny_folder, tmp_path / "out", shard_rows=100, features=True)
        assert (found.num_rows, found.num_broken) == (3, len(BROKEN))
        listed = [json.loads(line) for line in (tmp_path / "out" / "broken.jsonl").read_text().splitlines()]
        reasons = {entry["row"]: entry["error"] for entry in listed}
        for number, (_, reason) in enumerate(BROKEN, start=2):
            assert reason in reasons[number]
        kept = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
        assert kept["id"][2] == "0042"

    def test_a_name_that_is_not_unicode_is_listed(self, tiny_folder, tmp_path):
        clips = tmp_path / "clips"
        clips.mkdir()
        soundfile.write(clips / "a.wav", torch.zeros(300).numpy(), 1600)
        shutil.copy(clips / "a.wav", os.fsencode(clips) + b"/b\xff.wav")
        assert encode(clips, tiny_folder, tmp_path / "out").num_broken == 1

    def test_devices_that_fail_are_no_fault_of_a_row(self, tiny_folder, tmp_path, monkeypatch):
        def fail(*args):
            raise RuntimeError("CUDA error")

        rows = write_conversations(tmp_path, number=2)
        monkeypatch.setattr("josie.training.row_encoder.add_speech_codes", fail)
        with pytest.raises(RuntimeError, match="CUDA error"):
            encode(rows, tiny_folder, tmp_path / "out")
        assert not list((tmp_path / "out" / "shards").iterdir())

    def test_codes_without_a_number_of_quantizers(self):
        codes = torch.zeros(3, 2, dtype=torch.long).numpy()
        check_speech_codes(codes, 11, None, 4, end_of_speech=False)
        with pytest.raises(ValueError, match="`speech_codes` must be of at most 2 quantizers, got 3"):
            check_speech_codes(codes, 11, None, 2, end_of_speech=False)
        with pytest.raises(ValueError, match=r"must be in \[0, 10\], or -100, got values from 11 to 11"):
            check_speech_codes(codes + 11, 11, None, 4, end_of_speech=False)

    def test_the_recipes_say_what_is_wrong_with_codes(self, tiny_folder):
        encoder = SpeechEncoder.of_model(AutoModelForMultimodalLM.from_pretrained(tiny_folder))
        with pytest.raises(ValueError, match=r"`speech_codes` must be integers of shape .*, got 'abc'"):
            encoder({"messages": [MESSAGES], "speech_codes": ["abc"]})


def change(file):
    """Put another recording of the same size under a name."""
    values, rate = soundfile.read(file)
    before = file.stat()
    soundfile.write(file, -values, rate)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns + 1))


class TestRestarts:
    @pytest.mark.parametrize("form", ["jsonl", "folder", "saved", "json", "strings"])
    def test_other_recordings_under_the_same_names_are_refused(self, form, tiny_folder, tmp_path):
        rows = write_conversations(tmp_path, number=8)
        clip = (tmp_path / "long.wav").absolute()
        given = rows
        if form == "folder":
            given = tmp_path / "clips"
            given.mkdir()
            clip = Path(shutil.copy(clip, given / "long.wav"))
        elif form != "jsonl":
            given, audio = tmp_path / "saved", {"type": "audio", "path": str(clip)}
            columns = {"messages": [[{"role": "assistant", "content": [audio]}]]}
            columns = {"audio": [str(clip)]} if form == "strings" else columns
            features = Features(messages=Json()) if form == "json" else None
            Dataset.from_dict(columns, features=features).save_to_disk(given)
        encode(given, tiny_folder, tmp_path / "out")
        assert encode(given, tiny_folder, tmp_path / "out").num_complete  # the same files go on
        change(clip)
        with pytest.raises(ValueError, match=r"differs in \['rows'\]: `rows` are what they say, and size and time of"):
            encode(given, tiny_folder, tmp_path / "out")

    def test_files_are_found_however_a_row_names_them(self, tmp_path):
        clip = tmp_path / "a clip.wav"
        soundfile.write(clip, torch.zeros(300).numpy(), 1600)
        parts = [
            {"type": "audio", "path": clip.name},
            {"type": "audio", "url": clip.as_uri()},
            {"type": "audio", "audio": {"path": clip.name}},
            [clip.name, None],
        ]
        for part in parts:
            (tmp_path / "rows.jsonl").write_text(json.dumps(row([{"role": "assistant", "content": [part]}])))
            before = open_rows(str(tmp_path / "rows.jsonl")).fingerprint
            assert before == open_rows(str(tmp_path / "rows.jsonl")).fingerprint
            change(clip)
            assert before != open_rows(str(tmp_path / "rows.jsonl")).fingerprint

    def test_files_inside_a_data_set_are_no_files_of_the_disk(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        soundfile.write("a.wav", torch.zeros(300).numpy(), 1600)
        table = Dataset.from_dict({"audio": [{"bytes": b"x", "path": "a.wav"}, {"bytes": None, "path": "b.wav"}]})
        before = DatasetRows(table, None).fingerprint
        change(Path("a.wav"))
        assert before == DatasetRows(table, None).fingerprint
        Path("b.wav").write_bytes(b"there")
        assert before != DatasetRows(table, None).fingerprint

    def test_a_talker_that_learns_otherwise_is_refused(self, encoded, tiny_folder):
        arguments = EncodeArguments(str(encoded / "rows.jsonl"), str(tiny_folder), shard_rows=4)
        worker = encoding.ShardWorker(arguments, encoded / "out")
        worker.write_plan()
        worker.encoder.end_of_speech, worker.encoder.num_quantizers = False, 2
        with pytest.raises(ValueError, match=r"differs in \['num_quantizers', 'end_of_speech'\]\."):
            worker.write_plan()

    def test_more_shards_than_datasets_finds_are_refused(self, encoded, tiny_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(encoding, "_MOST_SHARDS", 3)
        with pytest.raises(ValueError, match="`--shard-rows` must be at least 4 for 11 rows, got 3"):
            encode(encoded / "rows.jsonl", tiny_folder, tmp_path / "out", shard_rows=3)

    def test_a_folder_that_is_encoded_anew_is_read_anew(self, tiny_folder, tmp_path, caplog):
        for number in (2, 5):
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            encode(write_conversations(tmp_path, number), tiny_folder, tmp_path / "out")
            rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
            assert len(rows) == number
        assert not caplog.records


class TestRecipes:
    @pytest.mark.parametrize("streaming", [False, True])
    def test_codes_of_another_codec_are_refused(self, streaming, encoded, other_folder, tiny_folder, tmp_path):
        config = configure(encoded / "out", other_folder, tmp_path / "run", streaming=streaming)
        message = "`speech_codes` must be of the model's own audio codec, got"
        refuse(train_talker, config, "threads=1", message, tmp_path)
        refuse(train_thinker, config, "freeze=[]", message, tmp_path)
        silent = SpokenConversations.load(config, is_spoken)  # as for a Thinker: what is said is not read
        assert silent.encodings == [encoded / "out"]
        own = SpeechEncoder.of_model(AutoModelForMultimodalLM.from_pretrained(tiny_folder))
        assert silent.encode(own).keys() == silent.rows.keys()
        own.end_of_speech = not own.end_of_speech
        with pytest.raises(ValueError, match="`speech_codes` must be made for a Talker whose `end_of_speech` is False"):
            silent.encode(own)

    def test_weights_are_the_same_in_another_dtype(self, tiny_folder):
        codec = AutoModelForMultimodalLM.from_pretrained(tiny_folder).audio_codec.to(torch.bfloat16)
        assert encoding._hash_weights(codec) == encoding._hash_weights(codec.float())

    @pytest.mark.parametrize("lost", ["shards/00001.json", "data/train-00001-of-00003.parquet"])
    def test_an_unfinished_encoding_is_refused(self, lost, encoded, tiny_folder, tmp_path):
        shutil.copytree(encoded / "out", tmp_path / "out")
        (tmp_path / "out" / lost).unlink()
        message = f"`path` of a source must have all shards of its encoding, got {str(tmp_path / 'out')!r} with 2 of 3"
        for streaming in (False, True):
            config = configure(tmp_path / "out", tiny_folder, tmp_path / "run", streaming=streaming)
            refuse(train_talker, config, "threads=1", message, tmp_path)
        encode(encoded / "rows.jsonl", tiny_folder, tmp_path / "out")
        assert load_conversations(ConversationDataArguments([source(tmp_path / "out")]))["train"]

    @pytest.mark.parametrize("fault", ["cut", "empty", "swapped", "mark", "old"])
    def test_a_shard_that_is_not_as_it_was_written_is_refused_and_made_again(
        self, fault, encoded, tiny_folder, tmp_path
    ):
        out = shutil.copytree(encoded / "out", tmp_path / "out")
        first, second, _ = sorted((out / "data").iterdir())
        mark, content = out / "shards" / "00001.json", second.read_bytes()
        if fault == "swapped":
            shutil.copy(first, second)
        elif fault == "mark":
            mark.write_text(mark.read_text()[:20])
        else:
            second.write_bytes(content[:900] if fault == "cut" else b"")
        if fault == "old":
            for path in (out / "shards").iterdir():  # as before there were records
                path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in RECORD}))
        message = f"with 2 of 3, where '{second.relative_to(out)}' is not there as it was written: the same `josie enc"
        for streaming in (False, True):
            config = configure(out, tiny_folder, tmp_path / "run", streaming=streaming)
            refuse(train_talker, config, "threads=1", message, tmp_path)
        part = {"data_files": f"data/{second.name}"}
        with pytest.raises(ValueError, match="with 0 of 1, where 'data/train-00001"):
            load_conversations(ConversationDataArguments([source(out, **part)], streaming=True))
        times = {path: path.stat().st_mtime_ns for path in (out / "data").iterdir() if path != second}
        assert encode(encoded / "rows.jsonl", tiny_folder, out).num_complete == 3
        assert second.read_bytes() == content
        assert {path: path.stat().st_mtime_ns for path in times} == times

    def test_a_whole_encoding_of_before_is_read_and_left_alone(self, encoded, tiny_folder, tmp_path, monkeypatch):
        out = shutil.copytree(encoded / "out", tmp_path / "out")
        for path in (out / "shards").iterdir():
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in RECORD}))
        require_complete(out)
        monkeypatch.setattr(encoding.ShardWorker, "encode_shard", None)
        assert encode(encoded / "rows.jsonl", tiny_folder, out).num_complete == 3

    def test_a_file_beside_the_shards_is_refused(self, encoded, tiny_folder, tmp_path):
        out = shutil.copytree(encoded / "out", tmp_path / "out")
        other = out / "data" / "train-00009-of-00003.parquet"
        shutil.copy(out / "data" / "train-00000-of-00003.parquet", other)
        message = f"must have no files in `data` beside the 3 shards of its encoding, got {str(other)!r}: delete it."
        for streaming in (False, True):
            with pytest.raises(ValueError, match=re.escape(f"`path` of a source {message}")):
                load_conversations(ConversationDataArguments([source(out)], streaming=streaming))
        with pytest.raises(ValueError, match=re.escape(f"`--out` {message}")):
            encode(encoded / "rows.jsonl", tiny_folder, out)

    def test_shards_of_broken_rows_alone_are_complete(self, tiny_folder, tmp_path):
        path = write_conversations(tmp_path, number=8)
        path.write_text("{\n" * 4 + path.read_text())
        encode(path, tiny_folder, tmp_path / "out")
        data = ConversationDataArguments([source(tmp_path / "out")], validation_share=0.0)
        assert len(load_conversations(data)["train"]) == 8
        shard = tmp_path / "out" / "data" / "train-00000-of-00003.parquet"
        shutil.copy(shard.with_name("train-00001-of-00003.parquet"), shard)  # of broken rows alone, it has none
        with pytest.raises(ValueError, match="with 2 of 3, where 'data/train-00000-of-00003.parquet' is not there as"):
            load_conversations(data)
        assert encode(path, tiny_folder, tmp_path / "out").num_broken == 4
        assert not shard.exists()

    def test_a_part_that_is_named_and_a_copy_of_the_rows_are_read(self, tiny_folder, tmp_path):
        encode(write_conversations(tmp_path, number=8), tiny_folder, tmp_path / "out", shard_rows=4)
        first, second = sorted((tmp_path / "out" / "data").glob("*.parquet"))

        def count(**options):
            data = ConversationDataArguments([source(tmp_path / "out", **options)], validation_share=0.0)
            return len(load_conversations(data)["train"])

        shutil.rmtree(tmp_path / "out" / "shards")
        assert count() == 8
        second.unlink()
        assert count(data_files=f"data/{first.name}") == 4
        for options in ({}, {"data_files": "data/*.parquet"}):
            with pytest.raises(ValueError, match="must have all shards of its encoding, got .* with 1 of 2"):
                count(**options)

    def test_encodings_are_found_however_they_are_named(self, encoded, tmp_path):
        folder = encoded / "out"
        shards = str(folder / "data" / "*.parquet")
        for given in (
            {"path": str(folder)},
            {"path": str(folder / "data")},
            {"path": str(encoded), "data_dir": "out"},
            {"path": "parquet", "data_dir": str(folder)},
            {"path": "parquet", "data_files": shards},
            {"path": "parquet", "data_files": {"train": [shards]}},
            {"path": str(folder), "data_files": "data/*.parquet"},
        ):
            assert find_encodings(given) == [folder]
        assert find_encodings({"path": "org/name"}) == find_encodings({"path": str(encoded)}) == []
        (tmp_path / PLAN_FILE).write_text("[1]")  # of someone else
        assert find_encodings({"path": str(tmp_path)}) == []
        (tmp_path / PLAN_FILE).write_text("{")
        with pytest.raises(ValueError, match="'encoding.json' of an encoding must be JSON, got"):
            find_encodings({"path": str(tmp_path)})
