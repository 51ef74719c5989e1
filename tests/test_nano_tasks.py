"""Lessons of the nano model: the same conversation for a number everywhere, and nothing that it is tested on."""

import io
import json
import pickle
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from nano_world import (
    possible,
    sentences as nano_sentences,
    speech,
    tasks,
    timing,
    voice,
    wordings,
)
from nano_world.grammar import caption, observe
from nano_world.hearing import MAX_SECONDS, HeardSpeech, draw_pairs, load_people
from nano_world.scenes import is_held_out
from nano_world.sentences import split_of
from nano_world.small_talk import chats
from nano_world.speech import Recordings
from nano_world.wordings import KINDS, UNKNOWN
from PIL import Image
from recipes import word_times
from recipes.spoken_rows import SpeechEncoder
from transformers import AutoProcessor

import josie

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ROOT / "runs" / "data" / "debian"
WITHOUT_STAMPS = {name: 1.0 for name in tasks.TASKS if name not in ("stamp", "duplex")}


def hum(text, voice):
    """Return FLAC that is as long as a text, and another one for each text and voice."""
    frequency = 100 + sum(map(ord, text + voice)) % 900
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(200 * len(text)) / 16000 * frequency * 2 * np.pi)
    soundfile.write(file, samples, 16000, format="FLAC")
    return file.getvalue()


def phone_of(text):
    """Return a voice's timing that says each letter for as long: 200 samples, after a pause of 200."""
    letters = re.sub("[^a-z]", "", text.lower())
    ends = [round(0.0125 * (1 + index), 4) for index in range(len(letters) + 1)]
    return {"phones": ["pau", *letters], "ends": ends, "seconds": 0.0125 * len(text)}


def make_up_speech(texts, voice, stretch, folder, timed=False, paused=False):
    """Return what `spoken` returns, of hums."""
    timing_of = {name: [phone_of(text)[name] for text in texts] for name in phone_of("")} if timed else {}
    rows = {"text": list(texts), "voice": [voice] * len(texts), "flac": [hum(text, voice) for text in texts]}
    return Dataset.from_dict(rows | timing_of)


class Spoken:
    """Recordings of anything, made up when they are played."""

    def __init__(self, texts):
        self.texts = texts

    def __contains__(self, text):
        return True

    def play(self, text, draw):
        return Recordings([make_up_speech([text], draw.choice("abcd"), 1.0, None)]).play(text, draw)


class Recorded(Spoken):
    """Speech of some texts and no others."""

    def __contains__(self, text):
        return text in self.texts


class Heard:
    """A made-up `HeardSpeech`."""

    def __init__(self, packages, recordings, split, rounds, num_voices):
        texts = [f"{name} has {number} {split} words." for number in range(5) for name in ("Ada", "Bob", "Eve", "Ira")]
        self.questions, self.sentences = Spoken(["Where is the star?", "What is red?"]), Spoken(texts)
        self.people, self.unknown = Spoken(["I am a person."]), Spoken(["Who is Ada?", "What is an anvil?"])
        self.chats = Spoken([said for said, _ in chats()])
        self.pairs = draw_pairs("made up", 40, set())


@pytest.fixture(autouse=True)
def without_flite_and_debian(monkeypatch):
    """Make sentences and voices up: neither packages nor flite are needed."""
    names = ("Ada", "Bob", "Eve", "Ira")
    made_up = {
        split: tuple(f"{name} has {number} {split} words." for number in range(5) for name in names)
        for split in ("train", "validation", "test")
    }
    monkeypatch.setattr(tasks, "HeardSpeech", Heard)
    monkeypatch.setattr(tasks, "draw_image", lambda draw, kind, split, packages, size: Image.new("RGB", (size, size)))
    monkeypatch.setattr(voice, "sentences", lambda packages, split: made_up[split])
    monkeypatch.setattr(voice, "phrases", lambda packages, count: ("Words eve.", "Has train ira has.")[:count])
    monkeypatch.setattr(possible, "_NUM_CENSUS_SCENES", 300)
    monkeypatch.setattr(voice, "spoken", make_up_speech)
    monkeypatch.setattr(word_times, "pronounce", lambda word: tuple(word.lower()))
    possible._census.cache_clear()
    yield
    possible._census.cache_clear()


def make(**changes):
    given = {"tasks": WITHOUT_STAMPS, "packages": Path("none"), "recordings": Path("none"), "num_rows": 60}
    return tasks.NanoTasks(**given | changes)


def as_bytes(name, value):
    return np.asarray(value).tobytes() if name in ("image", "audio") else value


def plain(row):
    """Return a row with arrays and images as bytes."""
    return [
        (message["role"], message["content"])
        if isinstance(message["content"], str)
        else (
            message["role"],
            [
                {
                    name: np.asarray(value).tobytes() if name in ("image", "audio") else value
                    for name, value in part.items()
                }
                for part in message["content"]
            ],
        )
        for message in row["messages"]
    ]


def test_a_number_is_one_conversation_in_any_order_and_process():
    rows, others = make(), pickle.loads(pickle.dumps(make()))
    order = random.Random(0).sample(range(60), 60)
    found = {index: plain(others[index]) for index in order}
    assert [found[index] for index in range(60)] == [plain(row) for row in rows]
    assert plain(make(seed=1)[0]) != plain(rows[0])
    assert {row["task"] for row in rows} == set(WITHOUT_STAMPS)
    with pytest.raises(IndexError):
        rows[60]


@pytest.fixture
def one_task(monkeypatch):
    monkeypatch.setattr(tasks, "CHANGES_TASK", 0.0)


def test_tasks_are_what_they_say(one_task):
    known = {text for pair in chats() for text in pair}
    for row in make(num_rows=200):
        parts = row["messages"][0]["content"]
        kinds = [part["type"] for part in parts]
        assert kinds == {
            "answer": ["image", "audio"],
            "look": ["image", "text"],
            "caption": ["image", "text"],
            "transcribe": ["audio", "text"],
            "people": ["audio", "text"],
        }.get(row["task"], kinds)
        if row["task"] == "unknown":
            assert {message["content"] for message in row["messages"][1::2]} == {UNKNOWN}
        if row["task"] in ("transcribe", "people"):
            assert parts[0]["text"] == row["messages"][1]["content"]
            assert len(parts[0]["audio"]) == 200 * len(parts[0]["text"])
        if row["task"] == "chat":
            assert parts[0]["text"] in known
            assert row["messages"][1]["content"] in known


def test_later_questions_are_about_the_same_image(one_task):
    found = {}
    for row in make(num_rows=300):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        found.setdefault(row["task"], set()).add(len(roles) // 2)
        later = [part["type"] for message in row["messages"][2::2] for part in message["content"]]
        assert "image" not in later
    assert found == {task: set(tasks.NUM_TURNS[task]) for task in WITHOUT_STAMPS}


def test_some_conversations_go_on_with_another_task(monkeypatch):
    monkeypatch.setattr(tasks, "CHANGES_TASK", 1.0)
    later = [
        part["type"] for row in make(num_rows=40) for message in row["messages"][2::2] for part in message["content"]
    ]
    assert {"image", "audio", "text"} == set(later)


@pytest.mark.slow
def test_batches_are_of_like_length():
    plain_rows, grouped = make(num_rows=270), make(num_rows=270, batch_size=16)
    assert sorted(map(repr, map(plain, grouped))) == sorted(map(repr, map(plain, plain_rows)))
    assert plain(grouped[200]) == plain(pickle.loads(pickle.dumps(grouped))[200])

    def padded(rows):
        lengths = [sum(len(message["content"]) for message in row["messages"][1::2]) for row in rows]
        return sum(16 * max(lengths[start : start + 16]) for start in range(0, 256, 16))

    assert padded(grouped) < 0.9 * padded(plain_rows)


def test_images_show_no_held_out_combination(monkeypatch):
    drawn, seen = [], []
    monkeypatch.setattr(tasks, "render", lambda scene, size: drawn.append(scene) or size)
    for row in make(num_rows=300, tasks={"look": 1.0, "answer": 1.0, "caption": 1.0}):
        answers = {}
        for message in row["messages"]:
            for part in message["content"] if message["role"] == "user" else ():
                if part["type"] == "image":
                    scene = drawn.pop(0)
                    answers = {seen.answer for kind in KINDS for seen in observe(scene, kind)}
                    answers |= {caption(scene)} if len(scene.things) < 3 else set()
                    seen.append(scene)
            assert message["role"] == "user" or message["content"] in answers
    assert len(seen) > 300
    assert not any(map(is_held_out, seen))


def test_a_pair_is_about_one_image_and_in_one_batch(monkeypatch, one_task):
    drawn = []
    monkeypatch.setattr(tasks, "render", lambda scene, size: drawn.append(scene) or size)
    rows = make(num_rows=128, tasks={"look": 1.0, "answer": 1.0}, batch_size=8)
    differ = 0
    for start in range(0, 128, 8):
        batch = [rows[index]["messages"] for index in range(start, start + 8)]
        scenes = Counter(drawn[-8:])
        assert set(scenes.values()) == {2}
        said = [[message["content"] for message in messages[1::2]] for messages in batch]
        pairs = [[said[place] for place in range(8) if drawn[-8 + place] == scene] for scene in scenes]
        differ += sum(first != second for first, second in pairs)
    assert differ > 48  # of 64


def test_unknown_things_of_every_kind_come(monkeypatch, one_task):
    shown = Counter()
    monkeypatch.setattr(tasks, "draw_image", lambda draw, kind, *rest: shown.update([kind]) or Image.new("RGB", (8, 8)))
    rows = list(make(num_rows=200, tasks={"unknown": 1.0}))
    parts = [tuple(part["type"] for part in row["messages"][0]["content"]) for row in rows]
    assert set(shown) == set(tasks.IMAGES)
    assert {("text",), ("audio",), ("image", "text"), ("image", "audio"), ("audio", "text")} <= set(parts)


@pytest.mark.parametrize("wrong", [{}, {"dance": 1.0}, {"look": -1.0}, {"look": 0.0}], ids=str)
def test_wrong_tasks_are_named(wrong):
    with pytest.raises(ValueError, match="`tasks` must give shares of"):
        make(tasks=wrong)


def test_the_recipes_rows(tmp_path):
    loaded = tasks.load_nano(tasks.NanoArguments(tasks=WITHOUT_STAMPS, num_rows=9, num_validation_rows=40))
    assert len(loaded["train"]) == 9
    assert len(loaded["validation"]) == 40
    said = [row["messages"][1]["content"] for row in loaded["validation"] if row["task"] == "transcribe"]
    assert said
    assert all("validation" in text for text in said)


def test_tokens_are_timed_by_the_phones_of_their_words(tiny_folder):
    tokenizer = AutoProcessor.from_pretrained(tiny_folder).tokenizer
    text, phones = "Ab cd, efgh.", ["pau", "a", "x", "b", "pau", "c", "e", "f", "g", "h", "pau"]
    ends = [0.5, 0.7, 0.8, 1.0, 1.5, 2.0, 2.2, 2.4, 2.6, 2.8, 3.5]  # "x" comes in addition, "d" is not said
    assert timing.time_words(["Ab", "cd", "efgh"], phones, ends) == [1.0, 2.0, 2.8]
    found = timing.time_tokens(text, tokenizer, phones, ends, 3.4)
    bounds = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert len(found) == len(bounds) > 4
    assert min(found) >= 0
    begins = {end: sum(found[: place + 1]) for place, (_, end) in enumerate(bounds)}
    for end, seconds in ((2, 1.0), (5, 2.0), (11, 2.8), (12, 3.4)):
        assert begins[end] == pytest.approx(seconds)
    assert found[0] > 0.5  # with the pause


@pytest.mark.slow
def test_the_voice_has_codes_of_what_it_says(tiny_folder):
    tokenizer = AutoProcessor.from_pretrained(tiny_folder).tokenizer
    config = josie.JosieMelCodecConfig(
        num_mel_bins=20, n_fft=256, win_length=256, hidden_size=8, num_quantizers=3, codebook_size=16, codebook_dim=4
    )
    codec = josie.JosieMelCodecModel(config).eval()
    encode = SpeechEncoder(codec, num_quantizers=2, end_of_speech=True)  # fewer than the codec has
    rows = voice.load_voice(
        voice.VoiceArguments(num_sentences=4, num_phrases=2, num_validation_rows=3), encode, tokenizer
    )
    assert len(rows["validation"]) == 3
    assert [row["messages"][0]["content"][0]["text"] for row in rows["train"]][:4] == list(
        voice.sentences(None, "train")[:4]
    )
    for row in rows["validation"]:
        text, codes = row["messages"][0]["content"][0]["text"], row["speech_codes"]
        assert len(codes) == 2
        assert len(codes[0]) == row["length"] == config.get_num_frames(200 * len(text)) + 1
        assert [code[-1] for code in codes] == [16, -100]
        assert len(row["speech_durations"]) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert sum(row["speech_durations"]) == pytest.approx(200 * len(text) / config.hop_length)
        assert row["messages"] == [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def test_answers_alone_are_said_with_a_pause_before_the_last_word(monkeypatch, tmp_path):
    said = {}

    def note(texts, *options, paused=False, **more):
        said.update(dict.fromkeys(texts, paused))
        return make_up_speech(texts, *options, **more)

    monkeypatch.setattr(voice, "spoken", note)
    voice.record_voice(voice.VoiceArguments(num_sentences=4, num_phrases=2))
    assert {text for text, paused in said.items() if paused} == set(possible.possible_answers())
    assert set(possible.possible_captions()) | set(voice.sentences(None, "train")[:4]) <= set(said)
    told = []
    monkeypatch.setattr(
        speech, "speak_in_time", lambda text, *voice: told.append(text) or (np.zeros(9), ["pau"], [0.0])
    )
    texts = ["It is left of the red heart.", "Yes, it is.", "Hello there.", "Hi."]
    assert speech.spoken(texts, "rms", 1.2, tmp_path, paused=True)["text"] == texts
    assert told == ["It is left of the red, heart.", *texts[1:]]
    assert speech.spoken(texts, "rms", 1.2, tmp_path)["text"] == texts
    assert told[4:] == texts


def test_a_sentence_has_one_split_however_it_is_written():
    texts = [f"The {word} sat on a mat." for word in ("cat", "dog", "hen", "cow", "pig", "fox")]
    for text in texts:
        assert split_of(text) == split_of(text.upper().rstrip(".")) == split_of(text.replace(" ", "  "))


def test_training_leaves_out_clips_that_a_conversation_has_no_room_for(tmp_path):
    rows = []
    for name, seconds in (("short", 1.0), ("fits", MAX_SECONDS), ("long", MAX_SECONDS + 0.1)):
        rows.append({"path": f"{name}.flac", "seconds": seconds, "text": f"{name}."})
        (tmp_path / "people").mkdir(exist_ok=True)
        (tmp_path / "people" / f"{name}.flac").write_bytes(hum(name, "a"))
    (tmp_path / "people" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert HeardSpeech(tmp_path, tmp_path, "train").people.texts == ["short.", "fits."]
    assert load_people(tmp_path, tmp_path, "train")["text"] == ["short.", "fits.", "long."]


@pytest.mark.skipif(not (PACKAGES / "root" / "usr/bin/bible").exists(), reason=f"no Debian packages in {PACKAGES}")
def test_no_real_sentence_is_in_two_splits():
    found = {split: nano_sentences.sentences(PACKAGES, split) for split in ("train", "validation", "test")}
    keys = {split: {nano_sentences.sentence_key(text) for text in texts} for split, texts in found.items()}
    assert len(found["train"]) > 20000
    assert len(found["test"]) >= 200
    assert all(len(keys[split]) == len(found[split]) for split in found)
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


@pytest.mark.skipif(not (PACKAGES / "root" / "usr/bin/bible").exists(), reason=f"no Debian packages in {PACKAGES}")
def test_phrases_have_every_word_alike_and_no_held_out_sentence():
    found = nano_sentences.phrases(PACKAGES, 4000)
    assert nano_sentences.phrases(PACKAGES, 100) == found[:100]
    assert len(set(found)) == 4000
    assert all(nano_sentences.split_of(text) == "train" for text in found)
    counts = Counter(word for text in found for word in text.lower().rstrip(".").split())
    known = {word for text in nano_sentences.sentences(PACKAGES, "train") for word in text.lower().rstrip(".").split()}
    assert counts.keys() == known
    assert max(counts.values()) < 3 * sum(counts.values()) / len(counts)


@pytest.mark.skipif(not (PACKAGES / "fonts-noto-color-emoji.done").exists(), reason=f"no emoji in {PACKAGES}")
def test_stamps_are_drawn():
    rows = make(tasks={"stamp": 1.0}, packages=PACKAGES)
    assert all(row["messages"][1]["content"].startswith("It is a") for row in rows)


@pytest.mark.slow
def test_long_spoken_questions_come_as_often_as_they_were_said():
    spoken = make(tasks={"answer": 1.0}, num_rows=200)
    spoken.heard.questions = Recorded([one.text for _, pair in spoken.heard.pairs for one in pair])
    said, learned = Counter(), Counter()
    for _, pair in spoken.heard.pairs:
        said.update(one.answer in (wordings.YES, wordings.NO) for one in pair)
    for row in spoken:
        learned[row["messages"][1]["content"] in (wordings.YES, wordings.NO)] += 1
    assert learned[True] / learned.total() > 0.6 * said[True] / said.total() > 0


def test_pairs_that_are_recorded_are_right_and_enough():
    pairs = draw_pairs("a voice", 50, {"Where is the star?"})
    texts = {one.text for _, pair in pairs for one in pair}
    assert 50 <= len(texts - {"Where is the star?"}) <= 51
    for scene, pair in pairs:
        for one in pair:
            assert any(
                seen.answer == one.answer and seen.ask(wording, random.Random(seed)).text == one.text
                for kind in KINDS
                for seen in observe(scene, kind)
                for wording in wordings.choose_wordings(seen.worded, False)
                for seed in range(40)
            )
