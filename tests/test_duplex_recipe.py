"""Conversations of nano's world in full duplex: five situations, splits that hold, and the recipe that learns them."""

import json
import random
import re
import shutil

import make_duplex
import numpy as np
import pytest
import train_duplex
from duplex_models import make_pair
from nano_world import duplex
from nano_world.grammar import Question
from nano_world.scenes import is_held_out
from nano_world.wordings import UNSEEN
from PIL import Image
from recipe_runs import refuse, run_recipe
from recipes.spoken_rows import SilentCollator

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
        made, scene = draw(split, situation, seed)
        row, track = made.row, made.track
        assert len(track) == round(row["seconds"] * RATE)
        assert row["voice"] in [voice.key for voice in duplex.VOICES[split]]
        assert is_held_out(scene) == (split == "test")
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


def test_nothing_of_the_test_is_in_training():
    voices = [{voice.key for voice in voices} for voices in duplex.VOICES.values()]
    assert not voices[0] & voices[1] | voices[0] & voices[2] | voices[1] & voices[2]
    assert duplex.STARTS["train"][1] <= duplex.STARTS["test"][0]
    patterns = [re.sub(r"\{\w+\}", ".+", re.escape(text).replace(r"\{", "{").replace(r"\}", "}"))
                for texts in UNSEEN.values() for text in texts]  # fmt: skip
    shares = {}
    for split in ("train", "test"):
        asked = [draw(split, "question", seed)[0].text for seed in range(60)]
        shares[split] = sum(any(re.fullmatch(pattern, text) for pattern in patterns) for text in asked) / 60
    assert shares["train"] == 0
    assert 0.3 < shares["test"] < 0.7


def test_more_questions_follow_when_the_answer_is_over():
    asked = [Question("colour", f"What is {text}?", f"It is {text}.") for text in ("one", "two", "three", "four")]
    for situation in ("question", "interruption"):
        made = duplex.hold(random.Random(0), "train", situation, asked, "slt", say, silence=2.0)
        turns = made.row["turns"]
        assert [turn["text"] for turn in turns] == [question.answer for question in asked]
        assert made.starts[0] >= 2
        low, high = duplex.GAPS
        for turn, start in list(zip(turns, made.starts[1:], strict=False))[situation == "interruption" :]:
            end = turn["begin"] + len(turn["text"]) * 0.05
            assert low - 0.01 <= start - end <= high + 0.01
        assert made.text == " ".join(question.text for question in asked)
    with pytest.raises(ValueError, match="`asked` must be at least 2 questions, got 1."):
        duplex.hold(random.Random(0), "train", "interruption", asked[:1], "slt", say)


def test_a_session_has_later_questions_that_can_be_scored(folder):
    file = make_duplex.write_rows(folder, "test", 2, 0, say, "sessions", ["session"])
    for row in read_duplex_rows(file):
        assert len(row.answers) == duplex.NUM_QUESTIONS["session"] == 1 + len(row.later)
        track = josie.load_audio(row.values["audio"], RATE)
        for begin, end in row.later:
            span = np.abs(track[round(begin * RATE) + 50 : round(end * RATE) - 50])
            assert span.min() > 0.1
            assert not track[round(begin * RATE) - 5000 : round(begin * RATE) - 50].any()
    turns = list(map(json.loads, make_duplex.write_turns(file).read_text().splitlines()))
    assert len(turns) == 12


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
    turns = list(map(json.loads, make_duplex.write_turns(folder / "test.jsonl").read_text().splitlines()))
    assert [row["kind"] for row in turns] == [*duplex.SITUATIONS[:4], "second", "noise"]
    assert [row["answer"] for row in turns] == [answer for row in scored for answer in row.answers]
    for row in turns:
        clip = josie.load_audio(folder / row["messages"][0]["content"][1]["path"], RATE)
        assert np.abs(clip[-120:-20]).min() > 0.1  # it ends as the question does


def test_all_fields_of_a_row_are_read(folder, tmp_path):
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    shutil.copy(folder / first["audio"], tmp_path / "user.wav")
    Image.new("RGB", (30, 25), "red").save(tmp_path / "red.png")
    fields = {"turns": first["turns"], "seconds": 12.0, "forget_until": 3.0, "past": ["Yes."], "system": "Be brief."}
    heard = [{"type": "audio", "path": "user.wav", "begin": 0.5}, {"type": "image", "path": "red.png", "begin": 1.0}]
    messages = [{"role": "user", "content": "Listen."}, {"role": "user", "content": heard}]
    rows = [fields | {"messages": messages}, {"turns": first["turns"], "audio": "data:,", "images": ["red.png"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = train_duplex.TimedRows(str(tmp_path / "rows.jsonl"))
    moved = [part | {"path": str(tmp_path / part["path"])} for part in heard]
    assert read[0] == fields | {"messages": [messages[0], {"role": "user", "content": moved}], "images": []}
    assert (read[1]["audio"], read[1]["images"]) == ("data:,", [str(tmp_path / "red.png")])

    model, processor = make_pair(positions=3000)
    collate = josie.JosieDataCollator(processor, speech_timing=model.get_speech_timing())
    text = processor.tokenizer.decode(collate([read[0]])["input_ids"][0])
    assert "Be brief." in text
    assert "Yes." in text


@pytest.mark.parametrize("name", ["image", "speaker", "conversations", "text"])
def test_fields_that_nothing_reads_are_refused_by_name(name, tmp_path):
    rows, path = (
        [{"turns": [], "seconds": 1.0, "past": None, "foo": None}, {"turns": [], name: ["red.png"]}],
        tmp_path / "x",
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    message = rf"Line 2 of '{path}' must have fields among \['turns', .*, got \['{name}'\]\."
    with pytest.raises(ValueError, match=message):
        train_duplex.TimedRows(str(path))


def test_rows_keep_their_instructions():
    row = {"system": "Be brief.", "turns": [], "audio": [0.0], "seconds": 1.0}
    assert SilentCollator(list)([row | {"source": "drawn"}]) == [row]


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
    refuse(train_duplex, config, change, "must be a row with `turns` or parts with `begin`, got", folder)
    (folder / "bad.jsonl").write_text(json.dumps({"turns": [], "messages": "text"}) + "\n")
    refuse(train_duplex, config, change, "`messages` in line 1 of", folder)
    (folder / "bad.jsonl").write_text("\n")
    for name in ("train", "validation"):
        change = f"data.{name}={folder / 'bad.jsonl'}"
        refuse(train_duplex, config, change, "`data` must name files of at least one row, got", folder)
    for change, own in (("units.unit_frames=12", 3), ("units.unit_window=7", None)):
        name, _, value = change.partition("=")
        message = f"`{name}` must be {own}, as the model has units already, got {value}."
        refuse(train_duplex, config, change, message, folder)
