"""Conversations of nano's world in full duplex: five situations, splits that hold, and the recipe that learns them."""

import json
import random

import make_duplex
import numpy as np
import pytest
import train_duplex
from duplex_models import make_pair
from nano_world import duplex
from nano_world.scenes import is_held_out
from recipe_runs import refuse, run_recipe

import josie
from josie.evaluation.duplex import read_duplex_rows
from josie.training.unit_rows import make_unit_row

RATE = 16000


def say(text, voice):
    """Return a tone as long as a text; JOSIE's is louder."""
    return np.full(len(text) * 800, 0.5 if voice is None else 0.25, np.float32)


def draw(split, situation, seed):
    return duplex.draw_conversation(random.Random(seed), split, situation, say)


@pytest.mark.parametrize("situation", duplex.SITUATIONS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_conversations_are_what_they_say(split, situation):
    for seed in range(8):
        made = draw(split, situation, seed)
        row, track = made.row, made.track
        assert len(track) == round(row["seconds"] * RATE)
        assert row["voice"] in duplex.VOICES[split]
        assert is_held_out(made.scene) == (split == "test")
        first = row["turns"][0]
        assert first["begin"] == pytest.approx(row["question_end"] + duplex.ANSWER_DELAY, abs=0.002)
        assert first["text"] == row["answers"][0]
        heard = np.abs(track) > 0
        end = round(row["question_end"] * RATE)
        assert heard[end - 50]
        assert not heard[end + 50 : round((first["begin"]) * RATE) - 50].any()
        if situation == "question":
            assert "event" not in row
            assert not heard[end + 50 :].any()
            continue
        begin, last = (round(time * RATE) for time in row["event"])
        if situation == "pause":
            low, high = duplex.PAUSES[split]
            assert low <= row["event"][1] - row["event"][0] <= high
            assert not heard[begin + 50 : last - 50].any()
            continue
        assert row["event"][0] > first["begin"]
        assert heard[begin + 50 : last - 50].mean() > 0.9
        assert ("cut_at" in first) == (situation == "interruption") == (len(row["turns"]) == 2)
        if situation == "interruption":
            assert row["event"][0] < first["cut_at"] < row["turns"][1]["begin"]
            assert row["turns"][1]["text"] == row["answers"][1]
        if situation == "noise":
            assert np.abs(track[round((first["begin"] + 0.2) * RATE)]) < 0.3


def test_no_wording_of_the_test_is_in_training():
    asked = {split: set() for split in ("train", "test")}
    for split, texts in asked.items():
        for seed in range(60):
            scene = draw(split, "question", seed).scene
            texts |= {question.text for question in duplex._questions(scene, split)}
    assert asked["train"]
    assert asked["test"]
    assert not asked["train"] & asked["test"]


def test_other_situations_are_refused():
    with pytest.raises(ValueError, match="`situation` must be one of .*, got 'song'."):
        draw("train", "song", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of both splits, and a tiny model to begin with."""
    folder = tmp_path_factory.mktemp("duplex")
    for split in ("train", "test"):
        make_duplex.write_rows(folder, split, 5, 0, say)
    model, processor = make_pair(positions=3000)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    return folder


def test_rows_train_and_are_scored(folder):
    rows = train_duplex.TimedRows(str(folder / "train.jsonl"))
    assert len(rows) == 5
    model, processor = make_pair(positions=3000)
    made = make_unit_row(processor, model.get_speech_timing(), rows[3])
    assert (made["input_ids"] == processor.thinker_config.image_token_id).sum() > 0
    scored = read_duplex_rows(folder / "test.jsonl")
    assert [row.situation for row in scored] == list(duplex.SITUATIONS)
    assert [len(row.answers) for row in scored] == [1, 1, 1, 2, 1]


def test_the_recipe_trains_saves_and_refuses(folder):
    config = {
        "data": {"train": str(folder / "train.jsonl"), "validation": str(folder / "test.jsonl")},
        "model": {"path": str(folder / "start")},
        "units": {"unit_frames": 3},
        "freeze": ["talker", "thinker.text.embeddings"],
        "trainer": {
            "output_dir": str(folder / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "logging_steps": 1,
            "disable_tqdm": True,
            "use_cpu": True,
        },
        "card": {"license": "apache-2.0", "hardware": "a tiny machine"},
    }
    metrics = run_recipe(train_duplex, config)
    assert metrics["eval_loss"] > 0
    model = josie.JosieForConditionalGeneration.from_pretrained(folder / "run" / "model")
    processor = josie.JosieProcessor.from_pretrained(folder / "run" / "model")
    with model.start_session(processor, talker_seed=0) as session:
        assert session.push([0.0] * 120).num_units == 2
    refuse(train_duplex, config, "data.train=nowhere", "`data.train` must be an existing file, got 'nowhere'.", folder)
    refuse(train_duplex, config, "freeze=talker", "`freeze` must be a list of names among", folder)
    (folder / "bad.jsonl").write_text(json.dumps({"messages": []}) + "\n")
    change = f"data.train={folder / 'bad.jsonl'}"
    refuse(train_duplex, config, change, "must be a row with `turns`, got", folder)
