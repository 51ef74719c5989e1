"""`josie encode`: the codes of each row, shards that are shared and resumed, and rows that are broken."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
import train_talker
from datasets import Audio, Dataset, Features, Image, Value, load_dataset
from recipe_runs import run_recipe, write_conversations
from recipes.conversations import ConversationDataArguments, load_conversations
from samples import IMAGE
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

import josie
from josie.cli.app import app
from josie.processing_josie import feature_extraction
from josie.processing_josie.audio import as_waveform
from josie.training import row_encoder
from josie.training.conversations import read_jsonl
from josie.training.encode_dataset import PLAN_FILE, EncodeArguments, encode_dataset, share_threads


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("conversations"), number=11)


def encode(dataset, model, out, share=None, **options):
    arguments = EncodeArguments(str(dataset), str(model), **dict(shard_rows=4) | options)
    return encode_dataset(arguments, out, *(share or ()))


def read(folder):
    """Return the rows of a folder as `datasets` reads them, in the order of their shards."""
    return list(load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache")))


def test_rows_have_the_codes_that_the_talker_learns(conversations, tiny_folder, tmp_path):
    calls = []
    arguments = EncodeArguments(str(conversations), str(tiny_folder), shard_rows=4)
    found = encode_dataset(arguments, tmp_path / "out", on_rows=lambda done, total: calls.append((done, total)))
    assert (found.num_shards, found.num_complete, found.num_rows, found.num_broken) == (3, 3, 11, 0)
    assert calls == [(0, 11), (4, 11), (8, 11), (11, 11)]
    codec = AutoModelForMultimodalLM.from_pretrained(tiny_folder).audio_codec
    given = [row["messages"] for row in read_jsonl(conversations)]
    expected = [josie.add_speech_codes({"messages": [messages]}, codec, 3)["speech_codes"][0] for messages in given]
    for row, codes in zip(read(tmp_path / "out"), expected, strict=True):
        assert row["speech_codes"] == codes.tolist()
        assert row["length"] == codes.shape[1]
        assert row["speaker"] in ("ada", "bob")
    seconds = (
        sum(codes.shape[1] for codes in expected)
        / josie.JosieConfig.from_pretrained(tiny_folder).audio_codec_config.frame_rate
    )
    assert found.seconds == pytest.approx(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_ranks_share_the_shards_and_what_is_there_is_left_alone(num_processes, conversations, tiny_folder, tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    encode(conversations, tiny_folder, whole)
    first = encode(conversations, tiny_folder, shared, (num_processes, 1, 2))
    assert (first.num_complete, first.num_rows) == (1, 4)
    assert not (shared / "broken.jsonl").exists()
    times = {path: path.stat().st_mtime_ns for path in (shared / "data").iterdir()}
    second = encode(conversations, tiny_folder, shared, (num_processes, 0, 2))
    assert (second.num_complete, second.num_rows) == (3, 11)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert read(shared) == read(whole)


def test_a_run_that_was_killed_goes_on(conversations, tiny_folder, tmp_path):
    """A shard without its mark is made again."""
    encode(conversations, tiny_folder, tmp_path / "out")
    expected = read(tmp_path / "out")
    (tmp_path / "out" / "shards" / "00001.json").unlink()
    (tmp_path / "out" / "data" / "train-00001-of-00003.parquet").write_bytes(b"half")
    assert encode(conversations, tiny_folder, tmp_path / "out").num_complete == 3
    assert read(tmp_path / "out") == expected


def test_ranks_may_begin_at_the_same_moment(conversations, tiny_folder, tmp_path):
    (tmp_path / "out" / f".{PLAN_FILE}.q7xk").mkdir(parents=True)  # as another rank begins to write the plan
    assert encode(conversations, tiny_folder, tmp_path / "out").num_complete == 3


def test_processes_share_the_threads():
    given = EncodeArguments("rows.jsonl", "nano")
    for num_processes in (1, 2, 1000):
        shared = share_threads(given, num_processes)
        assert shared.num_threads == max(torch.get_num_threads() // num_processes, 1)
        assert shared == EncodeArguments("rows.jsonl", "nano", num_threads=shared.num_threads)
    assert share_threads(EncodeArguments("rows.jsonl", "nano", num_threads=3), 2).num_threads == 3


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_none_behind_and_goes_on(tiny_folder, tmp_path):
    rows = write_conversations(tmp_path, number=24)
    command = [sys.executable, "-m", "josie", "encode", str(rows), "--model", str(tiny_folder)]
    command += ["--out", str(tmp_path / "out"), "--shard-rows", "1", "--num-proc", "2", "--threads", "1"]
    paths = [str(Path(josie.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("out/shards/*.json")):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert len(family) >= 2
    assert not psutil.wait_procs(family, timeout=60)[1]
    done = len(list(tmp_path.glob("out/shards/*.json")))
    assert 0 < done < 24
    encode(rows, tiny_folder, tmp_path / "out", shard_rows=1)
    encode(rows, tiny_folder, tmp_path / "whole", shard_rows=1)
    assert read(tmp_path / "out") == read(tmp_path / "whole")


def test_another_encoding_is_refused(conversations, tiny_folder, tmp_path):
    encode(conversations, tiny_folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"`--out` must be new or have the same .* differs in \['num_quantizers'\]"):
        encode(conversations, tiny_folder, tmp_path / "out", num_quantizers=2)
    other = write_conversations(tmp_path, number=12)
    with pytest.raises(ValueError, match=r"differs in \['num_rows', 'rows'\]"):
        encode(other, tiny_folder, tmp_path / "out")
    with pytest.raises(ValueError, match="`--out` must be new or have an encoding, got"):
        encode(conversations, tiny_folder, conversations.parent)


def test_broken_rows_are_counted_and_listed(tiny_folder, tmp_path):
    path = write_conversations(tmp_path, number=10)
    lines = path.read_text().splitlines()
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    lines[3] = lines[3].replace("long.wav", "noise.wav").replace("short.wav", "noise.wav")
    lines[5] = lines[5].replace("long.wav", "none.wav").replace("short.wav", "none.wav")
    lines[8] = "{"
    path.write_text("\n".join(lines))
    found = encode(path, tiny_folder, tmp_path / "out")
    assert (found.num_rows, found.num_broken) == (7, 3)
    broken = [json.loads(line) for line in (tmp_path / "out" / "broken.jsonl").read_text().splitlines()]
    assert [row["row"] for row in broken] == [3, 5, 8]
    assert "none.wav" in broken[1]["error"]
    assert len(read(tmp_path / "out")) == 7
    path.write_text("{\n")
    with pytest.raises(ValueError, match="`DATASET` must have rows that can be encoded, got none: "):
        encode(path, tiny_folder, tmp_path / "nothing")


@pytest.mark.parametrize("form", ["folder", "saved"])
def test_recordings_become_codes_without_an_end(form, tiny_folder, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    waves = [np.sin(np.arange(length) / 9).astype(np.float32) for length in (400, 700, 555)]
    for index, wave in enumerate(waves):
        soundfile.write(clips / f"{index}.wav", wave, 1600)
        (clips / f"{index}.txt").write_text(f"number {index}\n")
    source = clips
    if form == "saved":
        files = sorted(map(str, clips.glob("*.wav")))
        rows = Dataset.from_dict({"audio": files, "text": [f"number {index}" for index in range(3)]})
        rows.cast_column("audio", Audio()).save_to_disk(tmp_path / "saved")
        source = tmp_path / "saved"
    encode(source, tiny_folder, tmp_path / "out")
    codec = AutoModelForMultimodalLM.from_pretrained(tiny_folder).audio_codec
    for row, file in zip(read(tmp_path / "out"), sorted(clips.glob("*.wav")), strict=True):
        values = torch.from_numpy(josie.load_audio(str(file), codec.config.sampling_rate))[None, None]
        assert row["audio_codes"] == codec.encode(values, num_quantizers=3).audio_codes[0].tolist()
        assert row["text"] == file.with_suffix(".txt").read_text().strip()
        assert "audio" not in row


def test_features_are_those_of_each_clip_alone(conversations, tiny_folder, tmp_path):
    encode(conversations, tiny_folder, tmp_path / "out", features=True)
    model, processor = (cls.from_pretrained(tiny_folder) for cls in (AutoModelForMultimodalLM, AutoProcessor))
    (clip,) = {str(path) for path in conversations.parent.glob("question.wav")}
    extractor = processor.feature_extractor
    inputs = extractor(josie.load_audio(clip, extractor.sampling_rate), sampling_rate=extractor.sampling_rate)
    with torch.no_grad():
        states = model.thinker.model.audio_front_end.encoder(
            torch.as_tensor(inputs["input_features"]), attention_mask=torch.as_tensor(inputs["input_features_mask"])
        ).last_hidden_state
    for index, row in enumerate(read(tmp_path / "out")):
        assert len(row["audio_features"]) == index % 2
        if index % 2:
            torch.testing.assert_close(torch.tensor(row["audio_features"][0]), states[0])


def test_a_clip_is_brought_to_its_form_once(tiny_folder, monkeypatch):
    calls = []
    for module in (row_encoder, feature_extraction):
        monkeypatch.setattr(module, "as_waveform", lambda *args: calls.append(args) or as_waveform(*args))
    model, processor = (cls.from_pretrained(tiny_folder) for cls in (AutoModelForMultimodalLM, AutoProcessor))
    encoder = row_encoder.RowEncoder.of_model(model, processor, None, has_features=True)
    states = encoder._listen((np.zeros((2, 4000)), 8000))
    assert len(calls) == 1
    assert states == encoder._listen((np.zeros(4000), 8000))


def test_images_inside_a_data_set_are_kept(tiny_folder, tmp_path):
    content = IMAGE.read_bytes()
    parts = [{"type": "image", "text": None, "image": {"bytes": content, "path": None}}]
    answer = [{"type": "text", "text": "A ball.", "image": None}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    part = {"type": Value("string"), "text": Value("string"), "image": Image()}
    features = Features(messages=[{"role": Value("string"), "content": [part]}])
    rows = Dataset.from_list([{"messages": messages}] * 2, features=features)
    rows.save_to_disk(tmp_path / "rows")
    rows.to_parquet(tmp_path / "rows.parquet")
    assert encode(tmp_path / "rows", tiny_folder, tmp_path / "out").num_broken == 0
    source = {"name": "datasets", "path": "parquet", "data_files": str(tmp_path / "rows.parquet")}
    data = [
        load_conversations(ConversationDataArguments([source], streaming=streaming, validation_share=0.0))["train"]
        for streaming in (False, True)
    ]
    collate = josie.JosieDataCollator(AutoProcessor.from_pretrained(tiny_folder))
    expected = collate([{"messages": messages}])
    for row in (read(tmp_path / "out")[0], *(next(iter(part)) for part in data)):
        found = collate([row])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_cannot_be_encoded_is_refused(conversations, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="`--features` must be left out for a codec alone"):
        encode(conversations, josie.nano_path("jodio"), tmp_path / "out", features=True)
    with pytest.raises(ValueError, match="`--model` must be a JOSIE or an audio codec, got a JovioModel."):
        encode(conversations, josie.nano_path("jovio"), tmp_path / "out")
    with pytest.raises(ValueError, match="`DATASET` must be a JSONL file, a folder with data or a name of the Hub"):
        encode(tmp_path / "none", tiny_folder, tmp_path / "out")
    Dataset.from_dict({"words": ["x"]}).save_to_disk(tmp_path / "words")
    with pytest.raises(ValueError, match=r"`DATASET` must have a column `messages` or `audio`, got \['words'\]"):
        encode(tmp_path / "words", tiny_folder, tmp_path / "out")


def test_the_talkers_recipe_reads_the_shards(conversations, tiny_folder, tmp_path, monkeypatch):
    encode(conversations, tiny_folder, tmp_path / "out")
    monkeypatch.setattr("recipes.spoken_rows.add_speech_codes", lambda *args: pytest.fail("encoded again"))
    trainer = dict(output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, disable_tqdm=True)
    config = {
        "data": {
            "sources": [{"name": "datasets", "path": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}],
            "validation_share": 0.3,
            "folder": str(tmp_path / "codes"),
        },
        "model": {"path": str(tiny_folder)},
        "trainer": trainer,
    }
    assert "eval_depth_loss" in run_recipe(train_talker, config)


def test_the_command_says_what_it_did(conversations, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["encode", str(conversations), "--model", str(tiny_folder), "--out", str(tmp_path / "out")]
    command += ["--shard-rows", "4", "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "1 of 3 shards, 4 rows, 0 broken" in done.stderr
    monkeypatch.setenv("RANK", "0")
    done = CliRunner().invoke(app, command)
    assert "3 of 3 shards, 11 rows, 0 broken" in done.stderr
    assert "7/7" in done.stderr  # the bar
